//! A run over a zoo of small models as it might have gone: scores and similarities are those of the zoo, what follows
//! from them is invented.

use super::figures::{PROXY, SIMILARITY, TASKS, TEST};
use super::frontier::{FINAL, MEMBERS, decisions, flips, frontier, sizes};
use glue_report::*;

/// The report and its cost.
pub(crate) fn sample() -> (Report, Cost) {
    let report = Report {
        run: run(),
        tasks: tasks(),
        models: models(),
        compatibility: compatibility(),
        similarity: Some(similarity()),
        dendrogram: Some(dendrogram()),
        clustering: Some(Clustering { method: "leader".into(), threshold: 0.95, clusters: clusters() }),
        individual: vec![ScoreTable {
            split: "proxy".into(),
            purpose: "Searches look at these items, and the members of the mixture are chosen by them".into(),
            rows: PROXY
                .iter()
                .map(|(name, scores)| ScoreRow { name: name.to_string(), scores: scored(scores, 100) })
                .collect(),
        }],
        selections: vec![selection_a(), selection_b()],
        frontier: Some(frontier()),
        decisions: decisions(),
        sizes: sizes(),
        flips: flips(),
        candidates: candidates(),
        mixture: Some(mixture()),
        router: Some(router()),
        test: Some(test()),
        outcome: Some(outcome()),
        limits: Limits {
            seconds: Some(600.0),
            memory_bytes: Some(4 << 30),
            expert_parameters: Some(3_000_000),
            evaluations: Some(400),
        },
        warnings: vec![
            "Proxy scores are over 100 items for each task: differences below 0.05 in one task mean little.".into(),
        ],
    };
    (report, cost())
}

fn names() -> impl Iterator<Item = &'static str> {
    TEST.iter().map(|(name, _)| *name)
}

/// A share of `n` items with its binomial standard error.
pub(crate) fn share(value: f64, n: usize) -> Score {
    Score { value, stderr: Some((value * (1.0 - value) / n as f64).sqrt()), n: Some(n) }
}

/// An average over five tasks of a hundred items.
pub(crate) fn average(value: f64) -> Option<Score> {
    Some(Score { value, stderr: Some(0.0185), n: Some(500) })
}

fn scored(values: &[f64; 5], n: usize) -> Vec<TaskScore> {
    TASKS
        .iter()
        .zip(values)
        .map(|(task, value)| TaskScore { task: task.to_string(), score: share(*value, n) })
        .collect()
}

fn run() -> Run {
    let command = |title: &str, command: &str| Command { title: title.into(), command: command.into() };
    let artifact = |name: String, path: String, hash: u128, bytes: u64| Artifact {
        name,
        path,
        hash: format!("xxh3:{hash:032x}"),
        bytes: Some(bytes),
    };
    // Any odd constant spreads the bits; these are no hashes of anything.
    let hash = |i: usize| (i as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let models = names()
        .enumerate()
        .map(|(i, name)| artifact(format!("model {name}"), format!("zoo/{name}"), hash(i), 1_448_184));
    let tasks = TASKS
        .iter()
        .enumerate()
        .map(|(i, task)| artifact(format!("task {task}"), format!("zoo/tasks/{task}"), hash(i + 20), 61_204));
    Run {
        title: "Ten small models".into(),
        config_path: "zoo.yml".into(),
        config: "models:\n  base-a: zoo/base-a\n  a-chat: zoo/a-chat\n  a-math: zoo/a-math\n  # … seven more\ntasks: zoo/tasks\nsplits: { proxy: proxy, router: train, test: test }\ncluster: { threshold: 0.95 }\nsearch:\n  strategies: [greedy, evolutionary]\n  evaluations: 400\nseed: 42\n".into(),
        seed: 42,
        versions: vec![Version { name: "Model-GLUE".into(), version: "0.1.0".into() }],
        commands: vec![
            command("Everything", "glue run zoo.yml --out run --seed 42"),
            command("Similarity and clusters only", "glue similarity zoo/base-a zoo/a-chat zoo/a-math zoo/a-code zoo/a-reason zoo/a-noise zoo/base-b zoo/b-math zoo/b-code zoo/c-chat --json\nglue cluster zoo/base-a zoo/a-chat zoo/a-math zoo/a-code zoo/a-reason zoo/a-noise zoo/base-b zoo/b-math zoo/b-code zoo/c-chat --threshold 0.95 --json"),
            command("The merge of cluster A", "glue merge run/merged-a/recipe.yml run/merged-a"),
            command("The test", "glue eval run/final --tasks zoo/tasks --split test --json"),
        ],
        inputs: models.chain(tasks).collect(),
        outputs: vec![
            artifact("merge of cluster A".into(), "merged-a".into(), hash(40), 1_448_184),
            artifact("final model".into(), "final".into(), hash(41), 4_346_880),
        ],
        unfinished: None,
        activity: None,
    }
}

fn tasks() -> Vec<Task> {
    let about = [
        "Recall an attribute of an invented person.",
        "Order three people by transitivity.",
        "Resolve a pronoun, Winograd-like.",
        "One-step addition and subtraction in words.",
        "Predict the output of a tiny program.",
    ];
    let task = |(i, (name, about)): (usize, (&&str, &str))| Task {
        name: name.to_string(),
        metric: if i < 3 { "acc" } else { "exact_match" }.into(),
        description: Some(about.into()),
        splits: [("train", 320), ("proxy", 100), ("test", 250)]
            .map(|(split, items)| SplitSize { split: split.into(), items })
            .to_vec(),
    };
    TASKS.iter().zip(about).enumerate().map(task).collect()
}

fn models() -> Vec<Model> {
    let model = |name: &str| {
        let other = name == "c-chat";
        Model {
            name: name.into(),
            path: format!("zoo/{name}"),
            family: if other { "mistral" } else { "llama" }.into(),
            architecture: if other { "4 layers × 96, 4 heads (2 kv)" } else { "4 layers × 128, 4 heads (2 kv)" }.into(),
            parameters: if other { 350_880 } else { 722_048 },
            dtype: "F16".into(),
            vocab_size: Some(if other { 384 } else { 512 }),
            tokenizer: Some(if other { "7b1e90aa52c4" } else { "0f3cd2e4418b" }.into()),
            base: name.starts_with("base"),
        }
    };
    names().map(model).collect()
}

fn compatibility() -> Vec<Pair> {
    let names: Vec<&str> = names().collect();
    let mut pairs = Vec::new();
    for (i, first) in names.iter().enumerate() {
        for second in &names[i + 1..] {
            let other = *second == "c-chat";
            pairs.push(Pair {
                first: first.to_string(),
                second: second.to_string(),
                verdict: if other { Verdict::MixtureOnly } else { Verdict::Mergeable },
                reasons: if other {
                    vec!["hidden size: 128 and 96".into(), "vocabulary: other tokens".into()]
                } else {
                    Vec::new()
                },
                notes: Vec::new(),
            });
        }
    }
    pairs
}

fn similarity() -> Similarity {
    let figure = |value: &f64| (*value >= -1.0).then_some(*value);
    Similarity {
        metric: "cosine per column".into(),
        scale: Scale::Similarity,
        names: names().map(str::to_string).collect(),
        matrix: SIMILARITY.iter().map(|row| row.iter().map(figure).collect()).collect(),
    }
}

fn dendrogram() -> Dendrogram {
    let join = |(first, second, height): (usize, usize, f64)| Join {
        first,
        second,
        height: (height >= -1.0).then_some(height),
    };
    let joins = [
        (0, 4, 0.9946),
        (6, 7, 0.9941),
        (10, 3, 0.9917),
        (11, 8, 0.9903),
        (12, 1, 0.9888),
        (14, 2, 0.9855),
        (15, 5, 0.9749),
        (16, 13, 0.0004),
        (17, 9, -2.0),
    ];
    Dendrogram {
        link: "average".into(),
        scale: Scale::Similarity,
        names: names().map(str::to_string).collect(),
        joins: joins.map(join).to_vec(),
    }
}

fn clusters() -> Vec<Cluster> {
    let cluster = |name: &str, members: &[&str]| Cluster {
        name: name.into(),
        members: members.iter().map(|member| member.to_string()).collect(),
        first: members[0].into(),
    };
    vec![
        cluster("A", &["base-a", "a-chat", "a-math", "a-code", "a-reason", "a-noise"]),
        cluster("B", &["base-b", "b-math", "b-code"]),
        cluster("C", &["c-chat"]),
    ]
}

/// A curve whose last candidate has `validation` on the validation items, and the ones before it less or a little more.
fn curve(points: &[(u64, f64)], validation: f64) -> Vec<CurvePoint> {
    let last = points.last().map_or(0.0, |(_, best)| *best);
    let held_out = |(k, &(evaluations, best)): (usize, &(u64, f64))| {
        let rest = points.len() - 1 - k;
        let wiggle = 0.004 * (rest % 3) as f64 + 0.0015 * rest as f64;
        CurvePoint { evaluations, best, validation: Some(best + validation - last + wiggle) }
    };
    points.iter().enumerate().map(held_out).collect()
}

fn selection_a() -> Selection {
    let strategy = |name: &str, proxy, validation, evaluations, points: &[(u64, f64)]| StrategyResult {
        name: name.into(),
        proxy: average(proxy),
        validation: average(validation),
        evaluations,
        curve: curve(points, validation),
        note: None,
    };
    let decision = |strategy: &str, candidate: &str, score, accepted, reason: &str| Decision {
        strategy: strategy.into(),
        candidate: candidate.into(),
        score: average(score),
        accepted,
        reason: reason.into(),
    };
    let weight = |model: &str, values: [f64; 3]| WeightRow { model: model.into(), values: values.map(Some).to_vec() };
    let mut evolution = strategy(
        "evolutionary",
        0.736,
        0.748,
        192,
        &[
            (1, 0.662),
            (4, 0.684),
            (11, 0.697),
            (22, 0.706),
            (39, 0.714),
            (58, 0.722),
            (93, 0.729),
            (131, 0.734),
            (170, 0.736),
        ],
    );
    evolution.note = Some("converged before its budget ended".into());
    Selection {
        cluster: "A".into(),
        strategies: vec![
            strategy("uniform average", 0.668, 0.690, 1, &[(1, 0.668)]),
            strategy("greedy average", 0.696, 0.712, 15, &[(1, 0.674), (4, 0.681), (9, 0.696)]),
            strategy("grid of task arithmetic", 0.714, 0.726, 48, &[(1, 0.662), (6, 0.672), (14, 0.700), (22, 0.714)]),
            evolution,
        ],
        chosen: Some("evolutionary".into()),
        why: "It has the best score on the items held out".into(),
        best_member: average(0.674),
        decisions: vec![
            decision("filter", "a-noise", 0.668, false, "the uniform average is better without it: 0.684"),
            decision("greedy average", "a-math", 0.674, true, "the best member, where the search begins"),
            decision("greedy average", "add a-reason", 0.681, true, "higher than 0.674"),
            decision("greedy average", "add base-a", 0.670, false, "lower than 0.681"),
            decision("greedy average", "add a-code", 0.696, true, "higher than 0.681"),
            decision("greedy average", "add a-chat", 0.692, false, "lower than 0.696"),
        ],
        harmful: vec![Harmful {
            model: "a-noise".into(),
            reason: "every merge with it scores lower than without it, by 0.016 in the uniform average and by up to 0.260".into(),
        }],
        weights: Some(Weights {
            method: "task_arithmetic on base-a".into(),
            groups: vec!["embedding".into(), "layers 0–1".into(), "layers 2–3".into()],
            rows: vec![
                weight("a-chat", [0.151, 0.204, 0.298]),
                weight("a-math", [0.488, 0.561, 0.608]),
                weight("a-code", [0.502, 0.557, 0.591]),
                weight("a-reason", [0.262, 0.311, 0.321]),
            ],
        }),
        recipe: Some("merge_method: task_arithmetic\nbase_model: zoo/base-a\nmodels:\n  - model: zoo/a-chat\n    parameters: { weight: 0.218 }\n  - model: zoo/a-math\n    parameters: { weight: 0.552 }\n  # … two more\ndtype: float16\n".into()),
    }
}

fn selection_b() -> Selection {
    let strategy = |name: &str, proxy, validation, evaluations, points: &[(u64, f64)]| StrategyResult {
        name: name.into(),
        proxy: average(proxy),
        validation: average(validation),
        evaluations,
        curve: curve(points, validation),
        note: None,
    };
    Selection {
        cluster: "B".into(),
        strategies: vec![
            strategy("greedy average", 0.490, 0.486, 6, &[(1, 0.490)]),
            strategy("evolutionary", 0.488, 0.479, 96, &[(1, 0.432), (7, 0.461), (31, 0.480), (77, 0.488)]),
        ],
        chosen: None,
        why: "b-code alone scores 0.490 and no merge with it is better".into(),
        best_member: average(0.490),
        decisions: vec![Decision {
            strategy: "greedy average".into(),
            candidate: "add b-math".into(),
            score: average(0.451),
            accepted: false,
            reason: "lower than 0.490".into(),
        }],
        ..Selection::default()
    }
}

fn candidates() -> Vec<ExpertCandidate> {
    let candidate = |name: &str, kind, members: &[&str], score, kept, reason: &str| ExpertCandidate {
        name: name.into(),
        kind,
        members: members.iter().map(|member| member.to_string()).collect(),
        score: average(score),
        parameters: Some(if name == "c-chat" { 350_880 } else { 722_048 }),
        kept,
        reason: reason.into(),
    };
    let mut stacked = candidate(
        "stack a-math/a-code",
        CandidateKind::Stacked,
        &["a-math", "a-code"],
        0.312,
        false,
        "stacking layers 0–3 of a-math on 1–3 of a-code scores below each of them",
    );
    stacked.parameters = Some(1_165_184);
    vec![
        candidate(
            "merged-a",
            CandidateKind::Merged,
            &["a-chat", "a-math", "a-code", "a-reason"],
            0.736,
            true,
            "the best candidate",
        ),
        candidate(
            "math-code",
            CandidateKind::Merged,
            &["a-math", "a-code"],
            0.701,
            true,
            "nearly as good as a-math at arith and as a-code at program",
        ),
        candidate("a-chat", CandidateKind::Specialist, &["a-chat"], 0.644, true, "best at facts"),
        candidate("a-reason", CandidateKind::Specialist, &["a-reason"], 0.650, true, "best at order and wino"),
        candidate(
            "b-code",
            CandidateKind::Alone,
            &["b-code"],
            0.490,
            false,
            "not the best at any task; a-code is better at program",
        ),
        candidate(
            "c-chat",
            CandidateKind::Alone,
            &["c-chat"],
            0.360,
            false,
            "not the best at any task, and of another shape",
        ),
        stacked,
    ]
}

fn mixture() -> Mixture {
    let expert = |name: &str, purpose: &str| Expert {
        name: name.into(),
        source: name.into(),
        parameters: Some(591_360),
        purpose: Some(purpose.into()),
    };
    let step = |action: &str, score, kept, reason: &str| MixtureStep {
        action: action.into(),
        score: average(score),
        kept,
        reason: reason.into(),
    };
    Mixture {
        level: "block".into(),
        routing: "sample".into(),
        dense_layers: 0,
        layers: 4,
        experts_per_token: 1,
        experts: vec![
            expert("a-reason", "order, wino"),
            expert("math-code", "arith, program"),
            expert("a-chat", "facts"),
        ],
        parameters_total: 2_166_656,
        parameters_active: 722_560,
        parameters_experts: 1_774_080,
        steps: vec![
            step("merged-a alone", 0.736, true, "where the choice begins"),
            step("level block, add a-reason", 0.781, true, "higher than 0.736"),
            step("add math-code", 0.842, true, "higher than 0.781"),
            step("add a-chat", 0.881, true, "higher than 0.842"),
            step("remove merged-a", 0.886, true, "no worse than 0.881 with fewer parameters"),
            step("level ffn", 0.848, false, "lower than 0.886"),
            step("2 shared layers", 0.866, false, "lower than 0.886"),
            step("add b-code", 0.886, false, "no higher than 0.886, and over the budget"),
        ],
        left_out: vec![
            LeftOut {
                name: "merged-a".into(),
                reason:
                    "each of its skills has a better specialist, and without it the mixture is smaller and no worse"
                        .into(),
            },
            LeftOut { name: "b-code".into(), reason: "adds nothing to math-code".into() },
        ],
    }
}

fn router() -> Router {
    let experts: Vec<String> = ["a-reason", "math-code", "a-chat"].map(str::to_string).to_vec();
    let load = |task: &str, shares: [f64; 3]| Load { task: task.into(), shares: shares.to_vec() };
    Router {
        method:
            "A linear gate on the mean of the prompt's states, trained for 200 steps on the train split; experts frozen"
                .into(),
        split: "proxy".into(),
        accuracy: Some(share(0.984, 500)),
        confusion: Some(Confusion {
            skills: ["knowledge", "reason", "math", "code"].map(str::to_string).to_vec(),
            experts: experts.clone(),
            counts: vec![vec![3, 0, 97], vec![198, 0, 2], vec![0, 100, 0], vec![0, 99, 1]],
            right: vec![Some(2), Some(0), Some(1), Some(1)],
        }),
        experts,
        load: vec![
            load("facts", [0.03, 0.0, 0.97]),
            load("order", [1.0, 0.0, 0.0]),
            load("wino", [0.98, 0.0, 0.02]),
            load("arith", [0.0, 1.0, 0.0]),
            load("program", [0.0, 0.99, 0.01]),
        ],
    }
}

fn test() -> Test {
    let row = |name: &str, role, values: &[f64; 5]| TestRow { name: name.into(), role, scores: scored(values, 250) };
    let role = |name: &str| if name.starts_with("base") { Role::Base } else { Role::Single };
    let mut rows: Vec<TestRow> = TEST.iter().map(|(name, values)| row(name, role(name), values)).collect();
    rows.push(row("uniform average of A", Role::Reference, &[0.536, 0.928, 0.668, 0.404, 0.808]));
    rows.push(row("best pair, a-math and a-code", Role::Reference, &[0.512, 0.916, 0.64, 0.644, 0.892]));
    rows.push(row("merged-a", Role::Merged, &[0.552, 0.952, 0.82, 0.576, 0.868]));
    rows.push(row("mix-paper", Role::Mixture, &[0.556, 0.948, 0.828, 0.576, 0.884]));
    rows.push(row("mix-4", Role::Mixture, &MEMBERS));
    rows.push(row("mix-3", Role::Final, &FINAL));
    // What the final model gains over the base, item by item: a little less error than two independent scores have.
    let over = |name: &str, base: &[f64; 5]| ScoreRow {
        name: name.into(),
        scores: TASKS
            .iter()
            .zip(FINAL.iter().zip(base))
            .map(|(task, (last, base))| TaskScore {
                task: task.to_string(),
                score: Score { value: last - base, stderr: Some(0.028), n: Some(250) },
            })
            .collect(),
    };
    let over_bases = TEST.iter().filter(|(name, _)| name.starts_with("base")).map(|(name, base)| over(name, base));
    Test { split: "test".into(), over_bases: over_bases.collect(), rows, gain_stderr: Some(0.0116) }
}

fn outcome() -> Final {
    let usage = |title: &str, command: &str| Command { title: title.into(), command: command.into() };
    Final {
        name: "mix-3".into(),
        kind: FinalKind::Mixture,
        why: "The mixture is better on the validation items than every candidate alone: 0.886 against 0.736".into(),
        path: "run/final".into(),
        parameters: 2_166_656,
        parameters_active: Some(722_560),
        bytes: Some(4_346_880),
        dtype: "F16".into(),
        usage: vec![
            usage("Generate text", "glue generate run/final --prompt \"Tom has 4 apples and buys 3 more. How many?\""),
            usage("Score it on tasks", "glue eval run/final --tasks zoo/tasks --split test"),
        ],
        made_of: [&["a-reason"][..], &["a-chat"], &["a-math", "a-code"]]
            .map(|models| models.iter().map(ToString::to_string).collect())
            .to_vec(),
        opened_by: "glue and transformers open this directory; vLLM and llama.cpp do not.".into(),
    }
}

fn cost() -> Cost {
    let stage = |stage: &str, seconds, peak: u64, disk: Option<u64>| StageCost {
        stage: stage.into(),
        seconds,
        peak_bytes: Some(peak << 20),
        disk_bytes: disk,
        resumed: stage == "similarity",
    };
    let strategy = |cluster: &str, strategy: &str, seconds| StrategyCost {
        cluster: cluster.into(),
        strategy: strategy.into(),
        seconds,
    };
    Cost {
        machine: Some("2 cores, 8 GiB of memory".into()),
        threads: Some(2),
        stages: vec![
            stage("compatibility", 0.04, 21, Some(6_204)),
            stage("similarity", 0.31, 38, Some(9_120)),
            stage("clusters", 0.01, 38, Some(1_804)),
            stage("individual scores", 11.2, 102, Some(88_211)),
            stage("selective merging", 68.4, 156, Some(1_901_330)),
            stage("candidates", 5.9, 140, Some(4_210_114)),
            stage("mixture", 21.7, 171, Some(4_346_880)),
            stage("router", 14.8, 203, Some(66_512)),
            stage("test", 12.1, 110, Some(41_004)),
            stage("report", 0.05, 60, None),
        ],
        strategies: vec![
            strategy("A", "uniform average", 0.4),
            strategy("A", "greedy average", 4.6),
            strategy("A", "grid of task arithmetic", 13.1),
            strategy("A", "evolutionary", 31.9),
            strategy("B", "greedy average", 2.3),
            strategy("B", "evolutionary", 16.1),
        ],
        throughput: [("a-math", 212.0), ("merged-a", 211.0), ("mix-paper", 171.0), ("mix-3", 174.0), ("mix-4", 169.0)]
            .map(|(name, items_per_second)| Throughput { name: name.into(), items_per_second })
            .to_vec(),
    }
}
