//! What tasks do with a `datasets.Dataset`: rows in order, each a dictionary.

use super::Fault;
use super::calls::{Arguments, Keywords};
use super::evaluate::type_error;
use super::execute::Machine;
use super::value::{Dict, V};
use std::cell::RefCell;
use std::rc::Rc;

impl Machine<'_> {
    pub(super) fn dataset_method(
        &mut self,
        rows: &Rc<RefCell<Vec<V>>>,
        name: &str,
        positional: Vec<V>,
        keywords: Keywords,
    ) -> Result<V, Fault> {
        let mut arguments = Arguments::new(name, positional, keywords);
        let rows: Vec<V> = rows.borrow().clone();
        let row_of = |row: &V| if let V::Dict(row) = row { row.borrow().clone() } else { Dict::default() };
        let result: Vec<V> = match name {
            "map" | "filter" => {
                let function = arguments.required("function")?;
                let indices = arguments.keyword("with_indices").map_or(Ok(false), |flag| flag.truth())?;
                let removed = match arguments.keyword("remove_columns") {
                    None | Some(V::None) => Vec::new(),
                    Some(one @ V::Str(_)) => vec![one],
                    Some(several) => self.iterate(&several)?,
                };
                // How it is done, not what comes of it.
                for speed in ["desc", "num_proc", "load_from_cache_file", "keep_in_memory", "features", "batch_size"] {
                    arguments.keyword(speed);
                }
                if arguments.keyword("batched").map_or(Ok(false), |flag| flag.truth())? {
                    return Err(Fault::unsupported(0, format!("batches in `{name}` of a dataset")));
                }
                let mut out = Vec::with_capacity(rows.len());
                for (i, row) in rows.iter().enumerate() {
                    self.refresh();
                    let mut call = vec![V::dict(row_of(row))];
                    if indices {
                        call.push(V::Int(i as i64));
                    }
                    let given = self.call(&function, call, Vec::new())?;
                    if name == "filter" {
                        if given.truth()? {
                            out.push(row.clone());
                        }
                        continue;
                    }
                    let mut new = row_of(row);
                    for column in &removed {
                        new.remove(&column.key()?);
                    }
                    match given {
                        V::Dict(given) => {
                            for (key, value) in given.borrow().iter() {
                                new.insert(key.clone(), value.clone())?;
                            }
                        }
                        V::None => {}
                        other => return Err(type_error(&format!("map() expects rows, not {}", other.type_name()))),
                    }
                    out.push(V::dict(new));
                }
                out
            }
            "select" => {
                let chosen = arguments.required("indices")?;
                arguments.keyword("keep_in_memory");
                let length = rows.len() as i64;
                let mut out = Vec::new();
                for index in self.iterate(&chosen)? {
                    let at = index.int().map(|at| if at < 0 { at + length } else { at });
                    let row = at.and_then(|at| usize::try_from(at).ok()).and_then(|at| rows.get(at));
                    out.push(row.cloned().ok_or_else(|| Fault::raised("IndexError", "a row out of range"))?);
                }
                out
            }
            "rename_column" | "rename_columns" => {
                let first = arguments.required("original_column_name")?;
                let pairs = match name {
                    "rename_column" => vec![(first, arguments.required("new_column_name")?)],
                    _ => self.pairs(&first)?,
                };
                let renamed = rows.iter().map(|row| {
                    let old = row_of(row);
                    let mut new = Dict { origin: old.origin, ..Dict::default() };
                    for (key, value) in old.iter() {
                        let mut name = key.clone();
                        for (from, to) in &pairs {
                            if from.equal(key)? {
                                name = to.clone();
                            }
                        }
                        new.insert(name, value.clone())?;
                    }
                    Ok(V::dict(new))
                });
                renamed.collect::<Result<_, Fault>>()?
            }
            "remove_columns" | "select_columns" => {
                let columns = match arguments.required("column_names")? {
                    one @ V::Str(_) => vec![one],
                    several => self.iterate(&several)?,
                };
                let wanted = Dict::of_keys(columns)?;
                let kept = rows.iter().map(|row| {
                    let old = row_of(row);
                    let mut new = Dict { origin: old.origin, ..Dict::default() };
                    for (key, value) in old.iter() {
                        if wanted.contains(&key.key()?) == (name == "select_columns") {
                            new.insert(key.clone(), value.clone())?;
                        }
                    }
                    Ok(V::dict(new))
                });
                kept.collect::<Result<_, Fault>>()?
            }
            "add_column" => {
                let column = arguments.required("name")?;
                let values = arguments.required("column")?;
                let values = self.iterate(&values)?;
                let added = rows.iter().zip(values).map(|(row, value)| {
                    let mut new = row_of(row);
                    new.insert(column.clone(), value)?;
                    Ok(V::dict(new))
                });
                added.collect::<Result<_, Fault>>()?
            }
            "to_list" => {
                arguments.done()?;
                return Ok(V::list(rows));
            }
            "flatten_indices" | "with_format" => rows,
            _ => return Err(Fault::unsupported(0, format!("`{name}` of a dataset"))),
        };
        arguments.done()?;
        Ok(V::Dataset(Rc::new(RefCell::new(result))))
    }

    /// Rows as columns, which is what a slice of a dataset gives.
    pub(super) fn columns_of(&mut self, rows: &[V]) -> Result<V, Fault> {
        let mut columns = Dict::default();
        if let Some(V::Dict(first)) = rows.first() {
            for name in first.borrow().keys() {
                let column = rows.iter().map(|row| self.index(row, &name)).collect::<Result<Vec<_>, _>>()?;
                columns.insert(name, V::list(column))?;
            }
        }
        Ok(V::dict(columns))
    }
}
