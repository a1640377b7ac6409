//! The arrow table of `docs/architecture.md` against what the manifests say.
//!
//! A row is ``| `crate` | responsibility | `may`, `depend`, `on` or – | now or planned |``, a crate of the project
//! being named in full. Every package of the workspace has a row; a row that is `planned` has no package yet.
//! Development dependencies count like the others: an arrow that only tests take is still an arrow.

use std::collections::BTreeMap;

use crate::repo::Package;

/// The crate that other projects depend on alone.
const CONTRACT: &str = "glue-merge";

#[derive(Debug, PartialEq)]
struct Row {
    allowed: Vec<String>,
    planned: bool,
}

/// What is wrong between the table in `text` and the packages, one line each.
pub(super) fn problems(text: &str, packages: &[Package]) -> Vec<String> {
    let (rows, mut problems) = table(text);
    for package in packages {
        let name = &package.name;
        match rows.get(name) {
            None => problems.push(format!("the package {name} has no row in the table of crates")),
            Some(row) if row.planned => problems.push(format!("{name} exists: its row must say `now`")),
            Some(row) => {
                problems.extend(forbidden(package, row, packages));
                problems.extend(unused(package, row));
            }
        }
        if name == CONTRACT && !package.dependencies.is_empty() {
            let names: Vec<_> = package.dependencies.iter().map(|d| d.name.as_str()).collect();
            problems.push(format!("{CONTRACT} must have no dependency, but has {}", names.join(", ")));
        }
    }
    for (name, row) in &rows {
        if !row.planned && !packages.iter().any(|p| p.name == *name) {
            problems.push(format!("the row of {name} says `now`, but there is no such package"));
        }
        for unknown in row.allowed.iter().filter(|a| !rows.contains_key(*a)) {
            problems.push(format!("the row of {name} allows {unknown}, which has no row"));
        }
    }
    problems
}

fn forbidden(package: &Package, row: &Row, packages: &[Package]) -> Vec<String> {
    let ours = package.dependencies.iter().filter(|d| packages.iter().any(|p| p.name == d.name));
    ours.filter(|d| !row.allowed.contains(&d.name))
        .map(|d| {
            let (from, to) = (&package.name, &d.name);
            let kind = if d.dev { " (for its tests)" } else { "" };
            format!("{from} depends on {to}{kind}, an arrow that the table does not have")
        })
        .collect()
}

fn unused(package: &Package, row: &Row) -> Vec<String> {
    let unused = row.allowed.iter().filter(|allowed| !package.dependencies.iter().any(|d| d.name == **allowed));
    unused.map(|to| format!("the row of {} allows {to}, which it does not depend on", package.name)).collect()
}

/// The rows by crate, and what cannot be understood.
fn table(text: &str) -> (BTreeMap<String, Row>, Vec<String>) {
    let (mut rows, mut problems) = (BTreeMap::new(), Vec::new());
    let lines = text.lines().skip_while(|l| !l.starts_with("| crate |")).take_while(|l| l.starts_with('|'));
    for line in lines.skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, arrows, status] = cells[..] else {
            problems.push(format!("a row needs four columns: {line}"));
            continue;
        };
        let planned = match status {
            "now" => false,
            "planned" => true,
            _ => {
                problems.push(format!("the status of {name} must be `now` or `planned`, not `{status}`"));
                continue;
            }
        };
        let allowed = if arrows == "–" { Vec::new() } else { arrows.split(',').map(unquoted).collect() };
        if rows.insert(unquoted(name), Row { allowed, planned }).is_some() {
            problems.push(format!("{name} has two rows"));
        }
    }
    if rows.is_empty() {
        problems.push("there is no table that begins with `| crate |`".to_owned());
    }
    (rows, problems)
}

fn unquoted(cell: &str) -> String {
    cell.trim().trim_matches('`').to_owned()
}

#[cfg(test)]
mod tests {
    //! One test per rule of the table.
    use super::*;
    use crate::repo::Dependency;

    const TABLE: &str = "\n| crate | for | may depend on | status |\n|---|---|---|---|\n\
        | `glue-merge` | m | – | now |\n| `b` | b | `glue-merge` | now |\n| `c` | c | `b`, `glue-merge` | planned |\n";

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependency = |name: &&str| Dependency { name: (*name).to_owned(), dev: false };
        let dependencies = dependencies.iter().map(dependency).collect();
        Package { name: name.to_owned(), dependencies, ..Package::default() }
    }

    fn check(text: &str, packages: &[Package], expected: &[&str]) {
        let found = problems(text, packages);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} does not say {expected}");
        }
    }

    #[test]
    fn allowed_arrows_and_foreign_crates_pass() {
        check(TABLE, &[package("glue-merge", &[]), package("b", &["glue-merge", "serde"])], &[]);
    }

    #[test]
    fn an_arrow_outside_the_table_is_found() {
        let packages = [package("glue-merge", &[]), package("b", &["glue-merge"]), package("c", &["glue-merge"])];
        check(&TABLE.replace("planned", "now").replace("`b`, ", ""), &packages, &[]);
        let packages =
            [package("glue-merge", &[]), package("b", &["c", "glue-merge"]), package("c", &["b", "glue-merge"])];
        check(&TABLE.replace("planned", "now"), &packages, &["b depends on c"]);
    }

    #[test]
    fn an_arrow_that_nobody_takes_is_found() {
        check(TABLE, &[package("glue-merge", &[]), package("b", &["serde"])], &["the row of b allows glue-merge"]);
    }

    #[test]
    fn the_contract_depends_on_nothing_at_all() {
        let packages = [package("glue-merge", &["serde"]), package("b", &["glue-merge"])];
        check(TABLE, &packages, &["no dependency, but has serde"]);
    }

    #[test]
    fn packages_and_rows_must_correspond() {
        let (merge, b) = (|| package("glue-merge", &[]), || package("b", &["glue-merge"]));
        check(TABLE, &[merge(), b(), package("d", &[])], &["d has no row"]);
        check(TABLE, &[merge(), b(), package("c", &[])], &["c exists"]);
        check(TABLE, &[merge()], &["no such package"]);
        check(&TABLE.replace("`b`, ", "`x`, "), &[merge(), b()], &["allows x"]);
    }

    #[test]
    fn a_table_that_cannot_be_read_is_said() {
        check("text", &[], &["no table"]);
        let packages = [package("glue-merge", &[]), package("b", &["glue-merge"])];
        check(&TABLE.replace("planned", "soon"), &packages, &["not `soon`"]);
    }
}
