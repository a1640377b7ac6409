//! The memory that is available, to the system and within the limits of control groups.

use std::fs;
use std::path::Path;

/// The bytes of memory that are available now: to the system, and within the limits of the control group of this
/// process. `None` where the system does not say.
pub fn available() -> Option<u64> {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_system(&text));
    let group =
        fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| of_groups(&text, Path::new("/sys/fs/cgroup")));
    system.into_iter().chain(group).min()
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn of_system(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The least memory available in the control groups of `/proc/self/cgroup` and those above them, where `root` is
/// mounted: their limit less what is used, other than for files. `None` without a limit.
fn of_groups(groups: &str, root: &Path) -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let number = |path: &Path| read(path)?.trim().parse::<u64>().ok();
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, names) = match controllers {
            "" => (root.to_path_buf(), ["memory.max", "memory.current", "file"]),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"])
            }
            _ => continue,
        };
        let [limit, used, cache] = names;
        let group = root.join(path.trim_start_matches('/'));
        for group in group.ancestors().take_while(|group| group.starts_with(&root)) {
            let Some(limit) = number(&group.join(limit)) else { continue };
            let used = number(&group.join(used)).unwrap_or(0);
            // Pages of files, memory-mapped models among them, are given back.
            let stat = read(&group.join("memory.stat")).unwrap_or_default();
            let cached =
                stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok()).unwrap_or(0);
            let available = limit.saturating_sub(used.saturating_sub(cached));
            least = Some(least.map_or(available, |least| least.min(available)));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_and_every_control_group_limit_memory() {
        let meminfo = "MemTotal:       16000000 kB\nMemFree:         2000000 kB\nMemAvailable:    8000000 kB\n";
        assert_eq!((of_system(meminfo), of_system("MemFree: 1 kB\n")), (Some(8_192_000_000), None));
        let root = tempfile::tempdir().expect("a directory");
        let group = |path: &str, files: &[(&str, &str)]| {
            let group = root.path().join(path);
            fs::create_dir_all(&group).expect("a directory");
            files.iter().for_each(|(name, text)| fs::write(group.join(name), text).expect("a file"));
        };
        let available = |groups: &str| of_groups(groups, root.path());
        assert_eq!(available("0::/job/task\n"), None);
        group("job", &[("memory.max", "1000\n"), ("memory.current", "700\n"), ("memory.stat", "anon 100\nfile 500\n")]);
        group("job/task", &[("memory.max", "max\n"), ("memory.current", "700\n")]);
        // 700 are used, 500 of them for files.
        assert_eq!(available("0::/job/task\n"), Some(800));
        group("job/task", &[("memory.max", "300\n"), ("memory.current", "20\n")]);
        assert_eq!(available("0::/job/task\n"), Some(280));
        group(
            "memory/docker",
            &[
                ("memory.limit_in_bytes", "500\n"),
                ("memory.usage_in_bytes", "450\n"),
                ("memory.stat", "cache 1\ntotal_cache 50\n"),
            ],
        );
        assert_eq!(available("5:cpu,memory:/docker\n1:name=systemd:/docker\n"), Some(100));
    }
}
