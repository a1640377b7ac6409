//! Prints every key of a YAML file with its position: `cargo run -p glue-yaml --example outline -- FILE`.

use glue_yaml::{Node, Tree, documents};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a YAML file")?;
    let text = std::fs::read_to_string(&path)?;
    for node in documents(&text, &path)? {
        outline(&node, &path, 0);
    }
    Ok(())
}

fn outline(node: &Node, path: &str, depth: usize) {
    match &node.value {
        Tree::Map(entries) => {
            for (key, value) in entries {
                println!("{:depth$}{}: {}, at {}", "", key.value, value.value.describe(), key.at.of(path));
                outline(value, path, depth + 2);
            }
        }
        Tree::List(list) => list.iter().for_each(|entry| outline(entry, path, depth + 2)),
        _ => {}
    }
}
