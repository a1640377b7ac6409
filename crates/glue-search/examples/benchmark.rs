//! Runs the optimisers on functions with known optima and prints figures as JSON, for comparison with other programs.
//!
//! ```text
//! cargo run --release -p glue-search --example benchmark -- single sphere 10 --seeds 15
//! cargo run --release -p glue-search --example benchmark -- front zdt1 --seeds 15
//! ```
//!
//! `single FUNCTION DIMENSION` counts the evaluations of CMA-ES until a value below `--target` (1e-8): the box is [-5,
//! 5]^n, the mean begins at a point that is uniform in it, the step size is a sixth of its side, the population 4 + ⌊3
//! ln n⌋. A run that does not arrive within `--evaluations` counts as null. `front FUNCTION` gives the hypervolumes of
//! the population of NSGA-II and of all that it evaluated, with reference (1.1, 1.1).

use glue_search::{
    CMA_ES, Coordinate, Direction, NSGA2, OptimiserDef, OptimiserRegistry, Options, ParamSetting, Random, Search,
    Space, hypervolume,
};
use serde_json::{Value, json};
use std::f64::consts::PI;

type Function = fn(&[f64]) -> f64;
type Second = fn(f64, f64) -> f64;

const SINGLE: &[(&str, Function)] = &[
    ("sphere", |x| x.iter().map(|x| x * x).sum()),
    ("ellipsoid", |x| {
        let last = (x.len() - 1).max(1) as f64;
        x.iter().enumerate().map(|(i, x)| 1e6_f64.powf(i as f64 / last) * x * x).sum()
    }),
    ("rosenbrock", |x| x.windows(2).map(|w| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2)).sum()),
    ("rastrigin", |x| x.iter().map(|x| x * x + 10.0 - 10.0 * (2.0 * PI * x).cos()).sum()),
];

/// The distance function g and the second objective as a function of the first and of g; of the 30 coordinates in [0,
/// 1], the first objective is the first. Zitzler, Deb and Thiele, Evolutionary Computation 8 (2000).
const FRONTS: &[(&str, Second)] = &[
    ("zdt1", |x, g| g * (1.0 - (x / g).sqrt())),
    ("zdt2", |x, g| g * (1.0 - (x / g).powi(2))),
    ("zdt3", |x, g| g * (1.0 - (x / g).sqrt() - x / g * (10.0 * PI * x).sin())),
];

struct Arguments(Vec<String>);

impl Arguments {
    fn number(&self, name: &str, default: f64) -> Result<f64, String> {
        let at = self.0.iter().position(|a| a == name);
        let given = at.map(|i| self.0.get(i + 1).and_then(|v| v.parse().ok()).ok_or(format!("{name} needs a number")));
        given.unwrap_or(Ok(default))
    }

    fn word(&self, name: &str, default: &str) -> String {
        let at = self.0.iter().position(|a| a == name);
        at.and_then(|i| self.0.get(i + 1)).map_or(default, |v| v).to_string()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments(std::env::args().skip(1).collect());
    let position = |i: usize| arguments.0.get(i).map(String::as_str).unwrap_or_default();
    let seeds = arguments.number("--seeds", 15.0)? as u64;
    let result = match position(0) {
        "single" => {
            let function = SINGLE.iter().find(|f| f.0 == position(1)).ok_or("a function: sphere, ellipsoid, …")?.1;
            let dimension = position(2).parse()?;
            let runs: Result<Vec<Value>, _> = (1..=seeds).map(|s| single(&arguments, function, dimension, s)).collect();
            json!({"function": position(1), "dimension": dimension, "evaluations": runs?})
        }
        "front" => {
            let second = FRONTS.iter().find(|f| f.0 == position(1)).ok_or("a function: zdt1, zdt2 or zdt3")?.1;
            let runs: Result<Vec<_>, _> = (1..=seeds).map(|s| front(&arguments, second, s)).collect();
            let (population, all): (Vec<f64>, Vec<f64>) = runs?.into_iter().unzip();
            json!({"function": position(1), "population": population, "all": all})
        }
        _ => return Err("usage: benchmark single FUNCTION DIMENSION | front FUNCTION [--seeds N]".into()),
    };
    println!("{result}");
    Ok(())
}

fn single(arguments: &Arguments, f: Function, n: usize, seed: u64) -> Result<Value, Box<dyn std::error::Error>> {
    let space = Space::new((0..n).map(|i| Coordinate::real(format!("x{i}"), -5.0, 5.0)).collect())?;
    let def: &OptimiserDef = match arguments.word("--optimiser", CMA_ES.name) {
        name if name == CMA_ES.name => &CMA_ES,
        name => OptimiserRegistry::builtin().get(&name)?,
    };
    let mut settings = vec![("population".to_string(), ParamSetting::Number(arguments.number("--population", 0.0)?))];
    if def.params.iter().any(|p| p.name == "restarts") {
        settings.push(("restarts".into(), ParamSetting::Text(arguments.word("--restarts", "ipop"))));
    }
    let start = Random::new(seed, 99).point(n).iter().map(|u| 10.0 * u - 5.0).collect();
    let evaluations = arguments.number("--evaluations", 1e6)? as u64;
    let objectives = vec![Direction::Minimise];
    let options = Options { objectives, seed, evaluations, start: vec![start], settings };
    let mut search = Search::new(def, space, options)?;
    let target = arguments.number("--target", 1e-8)?;
    while search.done().is_none() {
        for c in search.ask() {
            let value = f(&c.point);
            search.tell(c.id, &[value])?;
            if value < target {
                return Ok(json!(c.id + 1));
            }
        }
    }
    Ok(Value::Null)
}

fn front(arguments: &Arguments, second: Second, seed: u64) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    const N: usize = 30;
    let space = Space::new((0..N).map(|i| Coordinate::real(format!("x{i}"), 0.0, 1.0)).collect())?;
    let settings = vec![("population".into(), ParamSetting::Number(arguments.number("--population", 100.0)?))];
    let evaluations = arguments.number("--evaluations", 20_000.0)? as u64;
    let objectives = vec![Direction::Minimise; 2];
    let options = Options { objectives, seed, evaluations, settings, ..Options::default() };
    let mut search = Search::new(&NSGA2, space, options)?;
    while search.done().is_none() {
        for c in search.ask() {
            let g = 1.0 + 9.0 * c.point[1..].iter().sum::<f64>() / (N - 1) as f64;
            search.tell(c.id, &[c.point[0], second(c.point[0], g)])?;
        }
    }
    let state: Value = serde_json::from_str(&search.optimiser().state())?;
    let members = state["members"].as_array().ok_or("no members")?;
    let losses = |m: &Value| -> Option<[f64; 2]> { Some([m["losses"][0].as_f64()?, m["losses"][1].as_f64()?]) };
    let population: Vec<[f64; 2]> = members.iter().filter_map(losses).collect();
    let all: Vec<[f64; 2]> = search.front().iter().map(|e| [e.objectives[0], e.objectives[1]]).collect();
    let reference = [1.1, 1.1];
    Ok((hypervolume(&population, reference), hypervolume(&all, reference)))
}
