//! A strict reader of XML, and checks of what was drawn.

/// Everything a page consists of, in order.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Elements: name, attributes, and the text directly inside.
    pub(crate) elements: Vec<Element>,
}

/// One element.
#[derive(Debug, Default, Clone)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Element {
    /// The value of an attribute.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Page {
    /// Elements of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.elements.iter().filter(move |element| element.name == name)
    }

    /// All text, without that of styles and scripts.
    pub(crate) fn text(&self) -> String {
        let shown = self.elements.iter().filter(|element| !matches!(element.name.as_str(), "style" | "script"));
        shown.map(|element| element.text.as_str()).collect::<Vec<_>>().join("\n")
    }
}

/// Reads well-formed XML without comments, sections of CDATA or instructions; anything else is an error with its place.
pub(crate) fn parse(text: &str) -> Result<Page, String> {
    let mut rest = text.strip_prefix("<!DOCTYPE html>\n").unwrap_or(text);
    let mut page = Page::default();
    let mut open: Vec<usize> = Vec::new();
    let fail = |rest: &str, what: &str| {
        let near: String = rest.chars().take(60).collect();
        Err(format!("{what} at byte {}: {near:?}", text.len() - rest.len()))
    };
    while !rest.is_empty() {
        let Some(after) = rest.strip_prefix('<') else {
            let end = rest.find('<').unwrap_or(rest.len());
            let decoded = match decode(&rest[..end]) {
                Ok(decoded) => decoded,
                Err(what) => return fail(rest, &what),
            };
            match open.last() {
                Some(&i) => page.elements[i].text.push_str(&decoded),
                None if decoded.trim().is_empty() => {}
                None => return fail(rest, "text outside the root"),
            }
            rest = &rest[end..];
            continue;
        };
        let Some(end) = after.find('>') else { return fail(rest, "a tag without end") };
        let (tag, after) = (&after[..end], &after[end + 1..]);
        if let Some(name) = tag.strip_prefix('/') {
            match open.pop() {
                Some(i) if page.elements[i].name == name => {}
                _ => return fail(rest, "an end tag that closes nothing"),
            }
        } else {
            if open.is_empty() && !page.elements.is_empty() {
                return fail(rest, "a second root");
            }
            let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            match element(tag) {
                Ok(element) => page.elements.push(element),
                Err(what) => return fail(rest, &what),
            }
            if !closed {
                open.push(page.elements.len() - 1);
            }
        }
        rest = after;
    }
    if open.is_empty() { Ok(page) } else { Err(format!("{} elements are never closed", open.len())) }
}

fn element(tag: &str) -> Result<Element, String> {
    let end = tag.find(char::is_whitespace).unwrap_or(tag.len());
    let (name, mut rest) = (&tag[..end], tag[end..].trim());
    let plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-:".contains(c));
    if !plain(name) {
        return Err(format!("{name:?} is no name of an element"));
    }
    let mut element = Element { name: name.to_string(), ..Element::default() };
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").ok_or(format!("an attribute without quotes: {rest:?}"))?;
        let (value, after) = after.split_once('"').ok_or("an attribute without end".to_string())?;
        if !plain(name) || element.get(name).is_some() || value.contains('<') {
            return Err(format!("attribute {name:?} is no name, is there twice, or holds a tag"));
        }
        if !after.is_empty() && !after.starts_with(char::is_whitespace) {
            return Err(format!("no space after attribute {name:?}"));
        }
        element.attributes.push((name.to_string(), decode(value)?));
        rest = after.trim();
    }
    Ok(element)
}

fn decode(text: &str) -> Result<String, String> {
    let mut decoded = String::new();
    let mut parts = text.split('&');
    decoded.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (entity, rest) = part.split_once(';').ok_or("an ampersand that is not escaped".to_string())?;
        let code = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        let c = match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            _ => match (entity.strip_prefix("#x"), entity.strip_prefix('#')) {
                (Some(hex), _) => code(hex, 16),
                (None, Some(decimal)) => code(decimal, 10),
                (None, None) => None,
            },
        };
        decoded.push(c.ok_or(format!("an entity that XML does not know: {entity:?}"))?);
        decoded.push_str(rest);
    }
    match decoded.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        Some(c) => Err(format!("a character that XML has no place for: {c:?}")),
        None => Ok(decoded),
    }
}

/// Every coordinate is a finite number, and every rectangle and line is inside its picture.
pub(crate) fn check_pictures(page: &Page) {
    let mut view = [0.0; 4];
    for element in &page.elements {
        if element.name == "svg" && element.get("viewBox").is_some() {
            view = view_of(element);
        }
        // What is drawn is inside; texts may be turned, and are cut to the room that was reserved for them.
        let [left, top, width, height] = view;
        for (names, low, size) in [(["x", "x1", "x2", "cx"], left, width), (["y", "y1", "y2", "cy"], top, height)] {
            for name in names {
                let Some(value) = element.get(name).filter(|_| size > 0.0) else { continue };
                let value: f64 = value.parse().unwrap();
                // Strokes and rounding to tenths may reach a little beyond.
                assert!(value >= low - 1.0 && value <= low + size + 1.0, "{name}={value} of {view:?}: {element:?}");
            }
        }
        for name in ["d", "points", "width", "height", "r"] {
            let value = element.get(name).unwrap_or_default();
            assert!(!value.contains("NaN") && !value.contains("inf"), "{element:?}");
        }
    }
}

/// Left, top, width and height of the part of the plane that a picture shows.
fn view_of(svg: &Element) -> [f64; 4] {
    let view: Vec<f64> = svg.get("viewBox").unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
    assert!(view.iter().all(|number| number.is_finite()) && view[2] > 0.0 && view[3] > 0.0, "{view:?}");
    view.try_into().unwrap()
}
