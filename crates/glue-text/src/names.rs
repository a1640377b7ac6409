//! Short names for models that are known by their paths.

/// The last part of a path, whatever it ends with: `math` of `zoo/math/`. The path itself where it has no such part.
pub fn last_part(path: &str) -> &str {
    let part = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    if matches!(part, "" | "." | "..") { path } else { part }
}

/// A name for each path: its last part where no other path has the same one, else all of it.
pub fn short<S: AsRef<str>>(paths: &[S]) -> Vec<String> {
    let parts: Vec<&str> = paths.iter().map(|path| last_part(path.as_ref())).collect();
    let is_unique = |part: &str| parts.iter().filter(|other| **other == part).count() == 1;
    let name = |(part, path): (&&str, &S)| if is_unique(part) { (*part).into() } else { path.as_ref().into() };
    parts.iter().zip(paths).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_where_they_tell_models_apart() {
        assert_eq!(short(&["zoo/a", "zoo/b/", "c"]), ["a", "b", "c"]);
        assert_eq!(short(&["x/a", "y/a", "y/b"]), ["x/a", "y/a", "b"]);
        assert_eq!([last_part("/"), last_part(".."), last_part("a/.")], ["/", "..", "a/."]);
    }
}
