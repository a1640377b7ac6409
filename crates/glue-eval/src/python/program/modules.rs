//! Members of modules: `json`, `math`, `numpy`, `itertools`, `random`, `datasets` and others, as far as tasks use them.

use super::Fault;
use super::calls::{Arguments, Keywords};
use super::evaluate::type_error;
use super::execute::Machine;
use super::matrix::Matrix;
use super::natives::{counted, unknown};
use super::numbers::{self, pairwise};
use super::value::{Dict, V};
use crate::corpus::{Tokenizer, corpus_bleu};
use crate::python::literal;
use crate::python::random::Random;
use serde_json::Value as Json;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

impl Machine<'_> {
    pub(super) fn module_function(&mut self, name: &str, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        let (module, function) = name.split_once('.').unwrap_or(("", name));
        match module {
            "numpy" => self.numpy(function, positional, keywords),
            "math" => math(function, &positional),
            "itertools" => self.itertools(function, positional, keywords),
            "random" => self.random_function(function, positional, keywords),
            _ => self.other_function(name, positional, keywords),
        }
    }

    fn other_function(&mut self, name: &str, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        let mut arguments = Arguments::new(name, positional, keywords);
        let result = match name {
            "json.loads" => {
                let text = arguments.text("s")?;
                V::from_json(&parse_json(&text)?)
            }
            "json.load" => {
                let V::Path(path) = arguments.required("fp")? else { return Err(unknown(name)) };
                let text = self.program.read(&path)?;
                V::from_json(&parse_json(&text)?)
            }
            "json.dumps" => {
                let value = arguments.required("obj")?.to_json(0)?;
                let ascii = arguments.keyword("ensure_ascii").map_or(Ok(true), |ascii| ascii.truth())?;
                V::str(dump(&value, ascii))
            }
            "ast.literal_eval" => {
                let text = arguments.text("node_or_string")?;
                let parsed = literal::parse(&text).map_err(|why| Fault::raised("ValueError", why))?;
                V::from_json(&parsed)
            }
            "collections.Counter" => match arguments.optional("iterable") {
                None => V::dict(Dict { is_counter: true, ..Dict::default() }),
                Some(V::Dict(dict)) => V::dict(Dict { is_counter: true, ..dict.borrow().clone() }),
                Some(items) => V::dict(counted(self.iterate(&items)?)?),
            },
            "collections.defaultdict" => {
                V::dict(Dict { default: arguments.optional("default_factory"), ..Dict::default() })
            }
            "copy.copy" | "copy.deepcopy" => copied(&arguments.required("x")?, name == "copy.deepcopy"),
            "unicodedata.normalize" => return Err(unknown(name)),
            "os.path.basename" | "os.path.dirname" => {
                let path = arguments.required("p")?.to_str()?;
                let (directory, base) = path.rsplit_once('/').unwrap_or(("", &path));
                V::str(if name == "os.path.basename" { base } else { directory })
            }
            "os.path.join" => {
                let parts = arguments.rest().iter().map(V::to_str).collect::<Result<Vec<_>, _>>()?;
                V::str(parts.join("/"))
            }
            "os.path.abspath" | "os.path.realpath" => arguments.required("path")?,
            // The environment is not seen.
            "os.getenv" => {
                arguments.required("key")?;
                arguments.optional("default").unwrap_or(V::None)
            }
            "pathlib.Path" => V::Path(Rc::new(arguments.required("path")?.to_str()?.into())),
            "str.maketrans" => {
                let first = arguments.required("x")?;
                let (second, third) = (arguments.optional("y"), arguments.optional("z"));
                translation(&first, second.as_ref(), third.as_ref())?
            }
            "dict.fromkeys" => {
                let keys = arguments.required("iterable")?;
                let value = arguments.optional("value").unwrap_or(V::None);
                let mut dict = Dict::default();
                for key in self.iterate(&keys)? {
                    dict.insert(key, value.clone())?;
                }
                V::dict(dict)
            }
            "datasets.Dataset.from_list" => {
                let rows = arguments.required("mapping")?;
                V::Dataset(Rc::new(RefCell::new(self.iterate(&rows)?)))
            }
            "datasets.Dataset.from_dict" => {
                let V::Dict(columns) = arguments.required("mapping")? else {
                    return Err(type_error("from_dict() takes a dictionary"));
                };
                let columns = columns.borrow();
                let mut rows: Vec<Dict> = Vec::new();
                for (name, values) in columns.iter() {
                    let values = self.iterate(values)?;
                    rows.resize_with(values.len().max(rows.len()), Dict::default);
                    for (row, value) in rows.iter_mut().zip(values) {
                        row.insert(name.clone(), value)?;
                    }
                }
                V::Dataset(Rc::new(RefCell::new(rows.into_iter().map(V::dict).collect())))
            }
            "datasets.concatenate_datasets" => {
                let parts = arguments.required("dsets")?;
                let mut rows = Vec::new();
                for part in self.iterate(&parts)? {
                    rows.extend(self.iterate(&part)?);
                }
                V::Dataset(Rc::new(RefCell::new(rows)))
            }
            "object.__init__" | "sys.stdout.flush" => return Ok(V::None),
            "sacrebleu.bleu" => self.bleu(&mut arguments)?,
            _ => return Err(unknown(name)),
        };
        arguments.done()?;
        Ok(result)
    }

    /// The BLEU of texts, for the stand-in of that library.
    fn bleu(&mut self, arguments: &mut Arguments<'_>) -> Result<V, Fault> {
        let (answers, references) = (arguments.required("hypotheses")?, arguments.required("references")?);
        let tokenizer = match &*arguments.text("tokenize")? {
            "13a" => Tokenizer::Mteval13a,
            "intl" => Tokenizer::International,
            other => return Err(Fault::unsupported(0, format!("the tokenizer `{other}` of sacrebleu"))),
        };
        let text = |value: &V| match value {
            V::Str(text) => Ok(Rc::clone(text)),
            other => Err(type_error(&format!("BLEU compares texts, not {}", other.type_name()))),
        };
        let answers = self.iterate(&answers)?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let mut columns = Vec::new();
        for column in self.iterate(&references)? {
            columns.push(self.iterate(&column)?.iter().map(text).collect::<Result<Vec<_>, _>>()?);
        }
        if columns.iter().any(|column| column.len() != answers.len()) {
            return Err(Fault::raised("ValueError", "as many references as answers are needed"));
        }
        let pairs = answers.iter().enumerate().map(|(i, answer)| {
            let references: Vec<&str> = columns.iter().map(|column| &*column[i]).collect();
            (&**answer, references)
        });
        Ok(V::Float(corpus_bleu(pairs, tokenizer)))
    }

    fn itertools(&mut self, function: &str, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        let mut arguments = Arguments::new(function, positional, keywords);
        match function {
            "chain" | "chain.from_iterable" => {
                let parts = match function {
                    "chain" => arguments.rest(),
                    _ => {
                        let parts = arguments.required("iterable")?;
                        self.iterate(&parts)?
                    }
                };
                let mut all = Vec::new();
                for part in parts {
                    all.extend(self.iterate(&part)?);
                }
                Ok(V::iterator(all))
            }
            "product" => {
                let mut tuples: Vec<Vec<V>> = vec![Vec::new()];
                for part in arguments.rest() {
                    let items = self.iterate(&part)?;
                    self.step(tuples.len().saturating_mul(items.len()) as u64 * 4)?;
                    tuples = tuples
                        .iter()
                        .flat_map(|tuple| {
                            items.iter().map(move |item| [&tuple[..], std::slice::from_ref(item)].concat())
                        })
                        .collect();
                }
                Ok(V::iterator(tuples.into_iter().map(V::tuple)))
            }
            "combinations" => {
                let items = arguments.required("iterable")?;
                let items = self.iterate(&items)?;
                let count = usize::try_from(arguments.int("r")?).unwrap_or(0);
                let mut out = Vec::new();
                self.combine(&items, count, &mut Vec::new(), &mut out)?;
                Ok(V::iterator(out))
            }
            "zip_longest" => {
                let fill = arguments.keyword("fillvalue").unwrap_or(V::None);
                let parts = arguments.rest();
                let parts = parts.iter().map(|part| self.iterate(part)).collect::<Result<Vec<_>, _>>()?;
                let longest = parts.iter().map(Vec::len).max().unwrap_or(0);
                self.step(longest.saturating_mul(parts.len()) as u64)?;
                let row = |i: usize| V::tuple(parts.iter().map(|part| part.get(i).unwrap_or(&fill).clone()).collect());
                Ok(V::iterator((0..longest).map(row).collect::<Vec<_>>()))
            }
            "islice" => {
                let items = arguments.required("iterable")?;
                let stop = usize::try_from(arguments.int("stop")?).unwrap_or(0);
                let items = self.iterate(&items)?;
                Ok(V::iterator(items.into_iter().take(stop)))
            }
            _ => Err(unknown(&format!("itertools.{function}"))),
        }
    }

    fn combine(&mut self, items: &[V], count: usize, taken: &mut Vec<V>, out: &mut Vec<V>) -> Result<(), Fault> {
        self.step(1 + taken.len() as u64)?;
        if count == 0 {
            out.push(V::tuple(taken.clone()));
            return Ok(());
        }
        if taken.len() > 60 {
            return Err(Fault::unsupported(0, "combinations of more than 60"));
        }
        for (i, item) in items.iter().enumerate() {
            taken.push(item.clone());
            self.combine(&items[i + 1..], count - 1, taken, out)?;
            taken.pop();
        }
        Ok(())
    }

    fn random_function(&mut self, function: &str, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        let mut arguments = Arguments::new(function, positional, keywords);
        if function == "seed" {
            let seed = arguments.int("a")?;
            self.random = Some(Random::new(seed.unsigned_abs()));
            return Ok(V::None);
        }
        let unseeded = || {
            Fault::unsupported(
                0,
                format!("`random.{function}` without a seed, whose result depends on all that was drawn before"),
            )
        };
        let mut random = self.random.take().ok_or_else(unseeded)?;
        let result = match function {
            "shuffle" => {
                let V::List(items) = arguments.required("x")? else { return Err(type_error("shuffle() takes a list")) };
                let mut items = items.borrow_mut();
                for i in (1..items.len()).rev() {
                    let j = random.below(i + 1);
                    items.swap(i, j);
                }
                V::None
            }
            "choice" => {
                let items = arguments.required("seq")?;
                let items = self.iterate(&items)?;
                if items.is_empty() {
                    return Err(Fault::raised("IndexError", "Cannot choose from an empty sequence"));
                }
                items[random.below(items.len())].clone()
            }
            "sample" => {
                let items = arguments.required("population")?;
                let items = self.iterate(&items)?;
                let count = usize::try_from(arguments.int("k")?).unwrap_or(usize::MAX);
                if count > items.len() {
                    return Err(Fault::raised("ValueError", "Sample larger than population or is negative"));
                }
                V::list(random.sample(items.len(), count).into_iter().map(|i| items[i].clone()).collect())
            }
            _ => return Err(unknown(&format!("random.{function}"))),
        };
        self.random = Some(random);
        arguments.done()?;
        Ok(result)
    }

    fn numpy(&mut self, function: &str, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        let mut arguments = Arguments::new(function, positional, keywords);
        let one = arguments.required("a")?;
        if arguments.keyword("axis").is_some_and(|axis| !matches!(axis, V::None | V::Int(0))) {
            return Err(Fault::unsupported(0, format!("the argument `axis` of numpy.{function}()")));
        }
        if function == "zeros" {
            arguments.done()?;
            let sizes = match one.int() {
                Some(size) => vec![V::Int(size)],
                None => self.iterate(&one)?,
            };
            let shape: Option<Vec<i64>> = sizes.iter().map(V::int).collect();
            let shape = shape.ok_or_else(|| type_error("zeros() takes whole numbers"))?;
            let matrix = Matrix::zeros(&shape)?;
            self.grow(8 * matrix.data().len())?;
            return Ok(V::Matrix(Rc::new(RefCell::new(matrix))));
        }
        let items = match &one {
            V::Matrix(matrix) => Some(matrix.borrow().data().iter().copied().map(V::Float).collect()),
            V::List(_) | V::Tuple(_) | V::Array(_) | V::Iterator(_) => Some(self.iterate(&one)?),
            _ => None,
        };
        let elementwise = |apply: &dyn Fn(f64) -> f64| -> Result<V, Fault> {
            let number =
                |value: &V| value.number().map(apply).map(V::Float).ok_or_else(|| type_error("expected a number"));
            match &items {
                Some(items) => Ok(V::Array(Rc::new(items.iter().map(number).collect::<Result<_, _>>()?))),
                None => number(&one),
            }
        };
        let simple: Option<fn(f64) -> f64> = match function {
            "exp" => Some(f64::exp),
            "log" => Some(f64::ln),
            "log2" => Some(f64::log2),
            "sqrt" => Some(f64::sqrt),
            "abs" | "absolute" => Some(f64::abs),
            "float64" | "float32" if function == "float64" => Some(|x| x),
            _ => None,
        };
        if let Some(apply) = simple {
            arguments.done()?;
            return elementwise(&apply);
        }
        if function == "isnan" {
            return Ok(V::Bool(one.number().is_some_and(f64::is_nan)));
        }
        if matches!(function, "round" | "around" | "round_") {
            let digits = arguments.optional("decimals").and_then(|digits| digits.int()).unwrap_or(0);
            let scale = 10f64.powi(i32::try_from(digits.clamp(-300, 300)).unwrap_or(0));
            return elementwise(&|x| (x * scale).round_ties_even() / scale);
        }
        if matches!(function, "array" | "asarray") {
            arguments.keyword("dtype");
            arguments.done()?;
            let items = items.ok_or_else(|| type_error("array() takes a list"))?;
            // One kind of number for all.
            let floats = items.iter().any(|item| matches!(item, V::Float(_)));
            let same =
                |item: &V| if floats { item.number().map_or_else(|| item.clone(), V::Float) } else { item.clone() };
            return Ok(V::Array(Rc::new(items.iter().map(same).collect())));
        }
        let items = items.unwrap_or_else(|| vec![one.clone()]);
        let numbers: Option<Vec<f64>> = items.iter().map(V::number).collect();
        let numbers = numbers.ok_or_else(|| Fault::unsupported(0, format!("numpy.{function} of this")))?;
        let whole = items.iter().all(|item| item.int().is_some());
        let as_input = |number: f64| if whole { V::Int(number as i64) } else { V::Float(number) };
        arguments.done()?;
        let best = |better: fn(f64, f64) -> bool| {
            let mut at = 0;
            for (i, number) in numbers.iter().enumerate() {
                // The first NaN wins.
                if !numbers[at].is_nan() && (number.is_nan() || better(*number, numbers[at])) {
                    at = i;
                }
            }
            at
        };
        if numbers.is_empty() && !matches!(function, "sum" | "mean") {
            return Err(Fault::raised("ValueError", format!("numpy.{function} of an empty list")));
        }
        Ok(match function {
            "sum" if whole => numbers::sum(&items, V::Int(0), self)?,
            "sum" => V::Float(pairwise(&numbers)),
            "mean" => V::Float(pairwise(&numbers) / numbers.len() as f64),
            "argmax" => V::Int(best(|a, b| a > b) as i64),
            "argmin" => V::Int(best(|a, b| a < b) as i64),
            "max" | "amax" => as_input(numbers[best(|a, b| a > b)]),
            "min" | "amin" => as_input(numbers[best(|a, b| a < b)]),
            "nanmax" => as_input(numbers.iter().copied().filter(|x| !x.is_nan()).fold(f64::NAN, f64::max)),
            "nanmean" => {
                let kept: Vec<f64> = numbers.iter().copied().filter(|x| !x.is_nan()).collect();
                V::Float(pairwise(&kept) / kept.len() as f64)
            }
            "std" => {
                let mean = pairwise(&numbers) / numbers.len() as f64;
                let squares: Vec<f64> = numbers.iter().map(|x| (x - mean) * (x - mean)).collect();
                V::Float((pairwise(&squares) / numbers.len() as f64).sqrt())
            }
            _ => return Err(unknown(&format!("numpy.{function}"))),
        })
    }

    pub(super) fn path_method(&mut self, path: &Path, name: &str, positional: Vec<V>) -> Result<V, Fault> {
        match name {
            "resolve" | "absolute" | "open" | "__enter__" => Ok(V::Path(Rc::new(path.to_path_buf()))),
            "read" | "read_text" => Ok(V::str(self.program.read(path)?)),
            "readlines" => {
                let text = self.program.read(path)?;
                Ok(V::list(text.split_inclusive('\n').map(V::str).collect()))
            }
            "close" => Ok(V::None),
            "joinpath" => {
                let parts = positional.iter().map(V::to_str).collect::<Result<Vec<_>, _>>()?;
                Ok(V::Path(Rc::new(parts.iter().fold(path.to_path_buf(), |path, part| path.join(part)))))
            }
            _ => Err(Fault::unsupported(0, format!("`{name}` of a path"))),
        }
    }
}

fn parse_json(text: &str) -> Result<Json, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::raised("JSONDecodeError", error.to_string()))
}

fn copied(value: &V, deep: bool) -> V {
    let inner = |value: &V| if deep { copied(value, true) } else { value.clone() };
    match value {
        V::List(items) => V::list(items.borrow().iter().map(inner).collect()),
        V::Tuple(items) if deep => V::tuple(items.iter().map(inner).collect()),
        V::Dict(dict) => {
            let mut new = dict.borrow().clone();
            if deep {
                for (key, value) in dict.borrow().iter() {
                    // The key was one before.
                    let _ = new.insert(key.clone(), inner(value));
                }
            }
            V::dict(new)
        }
        V::Set(set) => V::set(set.borrow().clone()),
        other => other.clone(),
    }
}

fn translation(first: &V, second: Option<&V>, third: Option<&V>) -> Result<V, Fault> {
    let mut table = Dict::default();
    let code = |c: char| V::Int(u32::from(c).into());
    match (first, second) {
        (V::Dict(dict), None) => {
            for (key, value) in dict.borrow().iter() {
                let key = match key {
                    V::Str(text) => text.chars().next().map_or(V::None, code),
                    other => other.clone(),
                };
                table.insert(key, value.clone())?;
            }
        }
        (V::Str(from), Some(V::Str(to))) => {
            if from.chars().count() != to.chars().count() {
                return Err(Fault::raised("ValueError", "maketrans() takes texts of the same length"));
            }
            for (from, to) in from.chars().zip(to.chars()) {
                table.insert(code(from), V::str(to.to_string()))?;
            }
        }
        _ => return Err(type_error("maketrans() takes a dictionary or two texts")),
    }
    if let Some(V::Str(removed)) = third {
        for c in removed.chars() {
            table.insert(code(c), V::None)?;
        }
    }
    Ok(V::dict(table))
}

fn math(function: &str, positional: &[V]) -> Result<V, Fault> {
    let numbers: Option<Vec<f64>> = positional.iter().map(V::number).collect();
    let numbers = numbers.ok_or_else(|| type_error(&format!("math.{function}() takes numbers")))?;
    let whole = |x: f64| if x.abs() < 9e18 { Ok(V::Int(x as i64)) } else { Err(unknown(&format!("math.{function}"))) };
    match (function, numbers.as_slice()) {
        ("exp", [x]) => Ok(V::Float(x.exp())),
        ("sqrt", [x]) if *x >= 0.0 => Ok(V::Float(x.sqrt())),
        ("log", [x]) if *x > 0.0 => Ok(V::Float(x.ln())),
        ("log2", [x]) if *x > 0.0 => Ok(V::Float(x.log2())),
        ("log10", [x]) if *x > 0.0 => Ok(V::Float(x.log10())),
        ("sqrt" | "log" | "log2" | "log10", [_]) => Err(Fault::raised("ValueError", "math domain error")),
        ("floor", [x]) => whole(x.floor()),
        ("ceil", [x]) => whole(x.ceil()),
        ("trunc", [x]) => whole(x.trunc()),
        ("fabs", [x]) => Ok(V::Float(x.abs())),
        ("pow", [x, y]) => Ok(V::Float(x.powf(*y))),
        ("isnan", [x]) => Ok(V::Bool(x.is_nan())),
        ("isinf", [x]) => Ok(V::Bool(x.is_infinite())),
        ("isclose", [x, y]) => Ok(V::Bool((x - y).abs() <= 1e-9 * x.abs().max(y.abs()))),
        _ => Err(unknown(&format!("math.{function}"))),
    }
}

/// JSON as Python writes it.
fn dump(value: &Json, ascii: bool) -> String {
    let text = |text: &str| {
        let quoted = Json::from(text).to_string();
        if !ascii {
            return quoted;
        }
        let mut out = String::new();
        for c in quoted.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
        }
        out
    };
    match value {
        Json::String(one) => text(one),
        Json::Number(_) => glue_lm::jinja::str(value),
        Json::Array(items) => {
            format!("[{}]", items.iter().map(|item| dump(item, ascii)).collect::<Vec<_>>().join(", "))
        }
        Json::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{}: {}", text(key), dump(value, ascii))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}
