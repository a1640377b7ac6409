//! A date and a time of day that are given, not read from the clock, and their formatting as by `strftime` in the C
//! locale.

/// A moment in the proleptic Gregorian calendar, without a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DateTime {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

/// Why there is no such moment, or why it cannot be written in some form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClockError {
    /// A part is out of its range.
    #[error("{part} is {found}, expected {expected}")]
    OutOfRange {
        /// Year, month, day, hour, minute or second.
        part: &'static str,
        /// The value given.
        found: u32,
        /// The range.
        expected: &'static str,
    },
    /// A letter after `%` that has no meaning here.
    #[error("the date format {format:?} has `%{letter}`, which is not supported")]
    UnknownLetter {
        /// The whole format.
        format: String,
        /// The letter.
        letter: char,
    },
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTH_LENGTHS: [u8; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl DateTime {
    /// Midnight of a day.
    ///
    /// # Errors
    /// [`ClockError::OutOfRange`] unless the year is within 1 and 9999 and the calendar has the day.
    pub fn date(year: u16, month: u8, day: u8) -> Result<DateTime, ClockError> {
        let out = |part, found: u32, expected| Err(ClockError::OutOfRange { part, found, expected });
        if !(1..=9999).contains(&year) {
            return out("year", year.into(), "1 to 9999");
        }
        if !(1..=12).contains(&month) {
            return out("month", month.into(), "1 to 12");
        }
        if day == 0 || day > month_length(year, month) {
            return out("day", day.into(), "a day of the month");
        }
        Ok(DateTime { year, month, day, hour: 0, minute: 0, second: 0 })
    }

    /// The same day at another time.
    ///
    /// # Errors
    /// [`ClockError::OutOfRange`] unless hour < 24, minute < 60 and second < 60.
    pub fn at(self, hour: u8, minute: u8, second: u8) -> Result<DateTime, ClockError> {
        let parts =
            [("hour", hour, 24, "0 to 23"), ("minute", minute, 60, "0 to 59"), ("second", second, 60, "0 to 59")];
        match parts.iter().find(|(_, found, end, _)| found >= end) {
            Some(&(part, found, _, expected)) => Err(ClockError::OutOfRange { part, found: found.into(), expected }),
            None => Ok(DateTime { hour, minute, second, ..self }),
        }
    }

    /// The moment that many seconds after the beginning of 1970, in UTC.
    ///
    /// # Errors
    /// [`ClockError::OutOfRange`] after the year 9999.
    pub fn from_unix(seconds: u64) -> Result<DateTime, ClockError> {
        let (mut days, second) = (seconds / 86_400, (seconds % 86_400) as u32);
        let (mut year, mut month) = (1970, 1);
        while year < 10_000 && days >= u64::from(month_length(year, month)) {
            days -= u64::from(month_length(year, month));
            (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        }
        let day = DateTime::date(year, month, (days + 1).min(99) as u8)?;
        day.at((second / 3600) as u8, (second / 60 % 60) as u8, (second % 60) as u8)
    }

    /// The moment in the form of `strftime`: `%Y %y %m %d %e %B %b %h %A %a %H %I %M %S %p %j %F %T %D %R %u %w %n %t
    /// %%`, and those with `-` between, which leaves the padding out.
    ///
    /// # Errors
    /// [`ClockError::UnknownLetter`]
    pub fn format(self, format: &str) -> Result<String, ClockError> {
        let mut out = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                out.push(letter);
                continue;
            }
            // A percent sign at the very end stands for itself, as it does in C.
            let Some(mut letter) = letters.next() else {
                out.push('%');
                break;
            };
            let padded = letter != '-';
            if !padded {
                letter = letters.next().unwrap_or('-');
            }
            match self.part(letter, padded) {
                Some(part) => out.push_str(&part),
                None => return Err(ClockError::UnknownLetter { format: format.to_string(), letter }),
            }
        }
        Ok(out)
    }

    fn part(self, letter: char, padded: bool) -> Option<String> {
        let number = |value: u16, width: usize| match padded {
            true => format!("{value:0width$}"),
            false => value.to_string(),
        };
        let short = |name: &str| name[..3].to_string();
        let month = MONTHS[usize::from(self.month) - 1];
        let weekday = WEEKDAYS[self.weekday()];
        let twelve = (self.hour + 11) % 12 + 1;
        Some(match letter {
            'Y' => self.year.to_string(),
            'y' => number(self.year % 100, 2),
            'm' => number(self.month.into(), 2),
            'd' => number(self.day.into(), 2),
            'e' if padded => format!("{:2}", self.day),
            'e' => self.day.to_string(),
            'B' => month.to_string(),
            'b' | 'h' => short(month),
            'A' => weekday.to_string(),
            'a' => short(weekday),
            'H' => number(self.hour.into(), 2),
            'I' => number(twelve.into(), 2),
            'M' => number(self.minute.into(), 2),
            'S' => number(self.second.into(), 2),
            'p' => (if self.hour < 12 { "AM" } else { "PM" }).to_string(),
            'j' => number(self.day_of_year(), 3),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month, self.day),
            'D' => format!("{:02}/{:02}/{:02}", self.month, self.day, self.year % 100),
            'T' => format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
            'R' => format!("{:02}:{:02}", self.hour, self.minute),
            'u' => ((self.weekday() + 6) % 7 + 1).to_string(),
            'w' => self.weekday().to_string(),
            'n' => "\n".to_string(),
            't' => "\t".to_string(),
            '%' => "%".to_string(),
            _ => return None,
        })
    }

    fn day_of_year(self) -> u16 {
        (1..self.month).map(|month| u16::from(month_length(self.year, month))).sum::<u16>() + u16::from(self.day)
    }

    /// Days since Sunday.
    fn weekday(self) -> usize {
        let before = usize::from(self.year) - 1;
        // 1 January of year 1 was a Monday.
        (before * 365 + before / 4 - before / 100 + before / 400 + usize::from(self.day_of_year())) % 7
    }
}

fn month_length(year: u16, month: u8) -> u8 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if month == 2 && leap { 29 } else { MONTH_LENGTHS[usize::from(month) - 1] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_counted_as_unix_does() {
        // Made by python: datetime.fromtimestamp(n, UTC)
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_732_147_199, "2024-11-20 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (253_402_300_799, "9999-12-31 23:59:59"),
        ] {
            assert_eq!(DateTime::from_unix(seconds).unwrap().format("%F %T").unwrap(), expected);
        }
        assert!(DateTime::from_unix(253_402_300_800).is_err() && DateTime::from_unix(u64::MAX).is_err());
    }

    #[test]
    fn dates_are_written_as_strftime_writes_them() {
        let moment = DateTime::date(2024, 7, 6).unwrap().at(15, 4, 9).unwrap();
        // Made by python: datetime(2024, 7, 6, 15, 4, 9).strftime(...)
        let cases = [
            ("%d %b %Y", "06 Jul 2024"),
            ("%A, %B %-d, %Y", "Saturday, July 6, 2024"),
            ("%Y-%m-%d %H:%M:%S", "2024-07-06 15:04:09"),
            ("%F %T %D %R", "2024-07-06 15:04:09 07/06/24 15:04"),
            ("%a %e %y %I %-I %p %j %u %w", "Sat  6 24 03 3 PM 188 6 6"),
            ("100%% %", "100% %"),
        ];
        for (format, expected) in cases {
            assert_eq!(moment.format(format).unwrap(), expected, "{format}");
        }
        assert_eq!(DateTime::date(2023, 12, 31).unwrap().format("%A %j %I%p").unwrap(), "Sunday 365 12AM");
        assert_eq!(DateTime::date(2000, 2, 29).unwrap().format("%A %j").unwrap(), "Tuesday 060");
    }

    #[test]
    fn what_is_not_in_the_calendar_is_refused() {
        for (year, month, day) in [(0, 1, 1), (2023, 13, 1), (2023, 0, 1), (2023, 2, 29), (1900, 2, 29), (2024, 4, 31)]
        {
            assert!(DateTime::date(year, month, day).is_err(), "{year}-{month}-{day}");
        }
        let day = DateTime::date(2024, 1, 1).unwrap();
        assert_eq!(day.at(24, 0, 0).unwrap_err().to_string(), "hour is 24, expected 0 to 23");
        assert!(day.at(0, 60, 0).is_err() && day.at(0, 0, 60).is_err());
        let error = day.format("%Q").unwrap_err().to_string();
        assert_eq!(error, "the date format \"%Q\" has `%Q`, which is not supported");
    }
}
