//! Generation with models of the zoo: against transformers, and against itself in other company.

use crate::support::{data, tokens};
use glue_lm::{
    Finish, GenerateOptions, Generated, LmError, Model, Prompt, Rows, Sampling, SamplingError, TextError, TextModel,
    Tokenizer, Tree, Want, Weights,
};
use glue_progress::ErrorChain;
use glue_tensor::{Checkpoint, Config};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

fn open(model: &str) -> TextModel {
    TextModel::open(data("zoo").join(model)).unwrap()
}

/// What transformers generated; see `data/generation/make.py`.
struct Golden {
    max_new_tokens: usize,
    models: Vec<(String, Vec<Case>)>,
}

struct Case {
    prompt: String,
    penalty: f32,
    tokens: Vec<u32>,
    text: String,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/generation/greedy.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let case = |case: &Value| Case {
        prompt: case["prompt"].as_str().unwrap().to_string(),
        penalty: case["penalty"].as_f64().unwrap() as f32,
        tokens: serde_json::from_value(case["tokens"].clone()).unwrap(),
        text: case["text"].as_str().unwrap().to_string(),
    };
    let models = file["models"].as_object().unwrap();
    let models =
        models.iter().map(|(name, cases)| (name.clone(), cases.as_array().unwrap().iter().map(case).collect()));
    Golden { max_new_tokens: file["max_new_tokens"].as_u64().unwrap() as usize, models: models.collect() }
}

fn generate(model: &TextModel, prompts: &[Prompt], options: &GenerateOptions) -> Vec<Generated> {
    model.generate(prompts, options, &|_| ()).unwrap()
}

fn texts(prompts: &[&str]) -> Vec<Prompt> {
    prompts.iter().map(|prompt| Prompt::text(*prompt)).collect()
}

fn options(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens, ..GenerateOptions::default() }
}

/// Options for random continuations; high enough a temperature that two of them are hardly ever equal.
fn random(seed: u64, max_new_tokens: usize) -> GenerateOptions {
    let sampling = Sampling { temperature: 3.0, seed, ..Sampling::default() };
    GenerateOptions { sampling, ..options(max_new_tokens) }
}

const PET: &str = "Q: What is the pet of mipim? A:";
const SUM: &str = "leo has 15 shells and gets 15 more. How many? A:";
const CODE: &str = "x = [8,6,5,4]; print(x[1:]) ->";

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let golden = golden();
    assert_eq!(golden.models.len(), 3);
    for (name, cases) in &golden.models {
        let model = open(name);
        for penalty in [1.0, 1.3] {
            let cases: Vec<&Case> = cases.iter().filter(|case| case.penalty == penalty).collect();
            assert!(cases.len() >= 7);
            let prompts: Vec<Prompt> = cases.iter().map(|case| Prompt::text(&*case.prompt)).collect();
            let sampling = Sampling { repetition_penalty: penalty, ..Sampling::default() };
            // All together, in several passes with several groups, and one by one.
            for (rows_per_pass, max_sequences) in [(2048, 256), (7, 5), (1, 1)] {
                let options = GenerateOptions {
                    sampling: sampling.clone(),
                    rows_per_pass,
                    max_sequences,
                    ..options(golden.max_new_tokens)
                };
                let found = generate(&model, &prompts, &options);
                assert_eq!(found.len(), cases.len());
                for (index, (found, case)) in found.iter().zip(&cases).enumerate() {
                    assert_eq!(found.tokens, case.tokens, "{name}: {:?}", case.prompt);
                    assert_eq!(found.text, case.text, "{name}: {:?}", case.prompt);
                    assert_eq!((found.prompt, found.sample, found.truncated), (index, 0, 0));
                    let ended = found.tokens.last() == Some(&2);
                    assert_eq!(found.finish, if ended { Finish::Eos } else { Finish::Length });
                    assert_eq!(found.prompt_tokens, model.tokenizer.encode(&case.prompt, true).unwrap().len());
                }
            }
        }
    }
}

#[test]
fn equal_prompts_and_prompts_within_prompts_do_not_disturb_each_other() {
    let model = open("a-chat");
    let prompts = ["Q: What is the", PET, "Q: What", SUM, PET, "Q: What is the", "Q:"];
    let together = generate(&model, &texts(&prompts), &options(16));
    for (index, prompt) in prompts.iter().enumerate() {
        let alone = generate(&model, &texts(&[prompt]), &options(16)).remove(0);
        assert_eq!(together[index], Generated { prompt: index, ..alone }, "{prompt}");
    }
}

#[test]
fn samples_follow_from_the_seed_alone() {
    let model = open("a-chat");
    let several = GenerateOptions { samples: 6, ..random(5, 10) };
    let prompts = texts(&[PET, SUM, CODE]);
    let found = generate(&model, &prompts, &several);
    let places: Vec<(usize, usize)> = found.iter().map(|one| (one.prompt, one.sample)).collect();
    assert_eq!(places, (0..18).map(|i| (i / 6, i % 6)).collect::<Vec<_>>());
    let mut different: Vec<&[u32]> = found.iter().map(|one| one.tokens.as_slice()).collect();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), 18, "continuations of this temperature differ");

    assert_eq!(generate(&model, &prompts, &several), found);
    assert_ne!(generate(&model, &prompts, &GenerateOptions { samples: 6, ..random(6, 10) }), found);
    // In small groups and passes, with fewer samples, and alone under the number of its place.
    let split = GenerateOptions { max_sequences: 4, rows_per_pass: 5, ..several.clone() };
    assert_eq!(generate(&model, &prompts, &split), found);
    let fewer = generate(&model, &prompts, &GenerateOptions { samples: 2, ..several.clone() });
    assert_eq!(fewer[2..4], found[6..8]);
    let alone = generate(&model, &[Prompt::text(SUM).with_stream(1)], &several);
    assert!(alone.iter().zip(&found[6..12]).all(|(alone, found)| alone.tokens == found.tokens));
}

#[test]
fn threads_change_nothing() {
    let model = open("b-code");
    let prompts: Vec<Prompt> = (0..150).map(|i| Prompt::text(format!("{SUM} {i}"))).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| generate(&model, &prompts, &random(1, 6)))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn first_tokens_are_distributed_as_the_model_says() {
    let model = open("a-chat");
    let ids = model.tokenizer.encode("Q: What is the", true).unwrap();
    let mut tree = Tree::new();
    tree.push(None, &ids);
    let logits = model.model.forward(&mut tree, &Want { logits: Rows::Last, hidden: &[] }).unwrap().logits;
    let logits: Vec<f64> = logits.to_vec2::<f32>().unwrap()[0].iter().map(|&x| f64::from(x)).collect();
    let total: f64 = logits.iter().map(|x| x.exp()).sum();

    let draws = 4000;
    let sampling = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
    let found = generate(&model, &[Prompt::tokens(ids)], &GenerateOptions { samples: draws, sampling, ..options(1) });
    let mut counts = vec![0.0; logits.len()];
    found.iter().for_each(|one| counts[one.tokens[0] as usize] += 1.0);
    for (token, (count, logit)) in counts.iter().zip(&logits).enumerate() {
        let p = logit.exp() / total;
        let expected = p * draws as f64;
        // Five standard deviations, and room for a token that is hardly ever drawn.
        let bound = 5.0 * (expected * (1.0 - p)).sqrt() + 3.0;
        assert!((count - expected).abs() <= bound, "token {token}: {count}, expected {expected}");
    }
}

#[test]
fn stop_strings_end_the_text_and_are_not_in_it() {
    let model = open("a-chat");
    let stopped = |prompt: &str, stop: &[&str]| {
        let stop = stop.iter().map(|stop| stop.to_string()).collect();
        generate(&model, &texts(&[prompt]), &GenerateOptions { stop, ..options(24) }).remove(0)
    };
    let free = stopped("x", &[]);
    assert_eq!((free.text.as_str(), free.finish), (" = [7,7,2,2]; print(x[0]) -> 7\n", Finish::Eos));
    // Within a token, over several tokens, the first to begin, the last to end, none.
    let cases: [(&[&str], &str, Finish); 6] = [
        (&["\n"], " = [7,7,2,2]; print(x[0]) -> 7", Finish::Stop(0)),
        (&["nope", ",2]; pr"], " = [7,7,2", Finish::Stop(1)),
        (&["rin"], " = [7,7,2,2]; p", Finish::Stop(0)),
        (&["x[0]", "7,2,", ";"], " = [7,", Finish::Stop(1)),
        (&["7\n"], " = [7,7,2,2]; print(x[0]) -> ", Finish::Stop(0)),
        (&["7\n\n", "</s>"], &free.text, Finish::Eos),
    ];
    for (stop, text, finish) in cases {
        let found = stopped("x", stop);
        assert_eq!((found.text.as_str(), found.finish), (text, finish), "{stop:?}");
        assert!(free.tokens.starts_with(&found.tokens), "{stop:?}");
        assert_eq!(found.tokens.len() < free.tokens.len(), finish != Finish::Eos, "{stop:?}");
    }
    // A stop string in the prompt does not count.
    assert_eq!(stopped("x = [", &["x = ["]).finish, Finish::Eos);
}

/// A copy of a model of the zoo in which `token` is special but ends no generation.
fn with_special(token: &str) -> TextModel {
    let from = data("zoo").join("a-chat");
    let directory = tempfile::tempdir().unwrap();
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(name), directory.path().join(name)).unwrap();
    }
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "sep_token": token});
    std::fs::write(directory.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    TextModel::open(directory.path()).unwrap()
}

#[test]
fn a_stop_string_that_is_a_special_token_ends_on_the_token() {
    let model = open("a-chat");
    let free = generate(&model, &texts(&["x"]), &options(24)).remove(0);
    // A token in the middle of the answer, whose text a special token does not show.
    let place = free.tokens.len() / 2;
    let token = model.tokenizer.id_to_token(free.tokens[place]).unwrap();
    let place = free.tokens.iter().position(|&id| id == free.tokens[place]).unwrap();
    let special = with_special(&token);
    assert!(special.tokenizer.special_token_id(&token).is_some() && model.tokenizer.special_token_id(&token).is_none());
    for skip_special in [true, false] {
        let stop = vec!["nowhere".to_string(), token.clone()];
        let found =
            generate(&special, &texts(&["x"]), &GenerateOptions { stop, skip_special, ..options(24) }).remove(0);
        assert_eq!(found.finish, Finish::Stop(1), "{token:?}");
        assert_eq!(found.tokens, free.tokens[..=place]);
        assert_eq!(found.text, model.tokenizer.decode(&free.tokens[..place], false).unwrap());
    }
}

#[test]
fn sequences_come_in_as_others_end() {
    let model = open("b-code");
    // Prompts of many lengths, some of them the beginning of others, and answers that end at different times.
    let prompts: Vec<String> = (0..60).map(|i| format!("{}{}", &CODE[..8 + i % 20], "x".repeat(i % 7))).collect();
    let prompts = texts(&prompts.iter().map(String::as_str).collect::<Vec<_>>());
    let all = GenerateOptions { samples: 3, stop: vec!["e".to_string(), "1".to_string()], ..random(9, 30) };
    let expected = generate(&model, &prompts, &all);
    assert!(expected.iter().map(|one| one.tokens.len()).collect::<std::collections::BTreeSet<_>>().len() > 3);
    for (max_sequences, rows_per_pass, memory) in
        [(1, 2048, None), (3, 5, None), (10, 2048, None), (256, 2048, Some(1)), (256, 64, Some(3 << 20))]
    {
        let options = GenerateOptions { max_sequences, rows_per_pass, memory, ..all.clone() };
        assert_eq!(generate(&model, &prompts, &options), expected, "{max_sequences} {rows_per_pass} {memory:?}");
    }
}

#[test]
fn keys_and_values_in_bfloat16_change_little() {
    let model = open("a-chat");
    let prompts = texts(&[PET, SUM, CODE, "x"]);
    let exact = generate(&model, &prompts, &options(24));
    let rounded = GenerateOptions { cache_type: glue_lm::KvCacheType::Bf16, ..options(24) };
    let rounded = generate(&model, &prompts, &rounded);
    // Answers of a model that is sure of them.
    let same = exact.iter().zip(&rounded).filter(|(a, b)| a.tokens == b.tokens).count();
    assert!(same >= 3, "{same} of 4 answers are the same");
}

#[test]
fn text_that_is_held_back_comes_out_at_the_end() {
    let model = open("a-chat");
    let cut = GenerateOptions { stop: vec!["; print(y".to_string()], ..options(11) };
    let found = generate(&model, &texts(&["x"]), &cut).remove(0);
    assert_eq!(found.finish, Finish::Length);
    assert_eq!(found.text, model.tokenizer.decode(&found.tokens, true).unwrap());
}

#[test]
fn streamed_pieces_are_the_whole_text() {
    let model = open("a-chat");
    let with_stop = GenerateOptions { stop: vec!["rint".to_string(), "zz".to_string()], ..options(24) };
    for (prompt, options) in [("x", options(24)), ("x", with_stop), (PET, random(2, 60)), (CODE, random(4, 60))] {
        let mut pieces = Vec::new();
        let mut on_text = |piece: &str| {
            pieces.push(piece.to_string());
            ControlFlow::Continue(())
        };
        let found = model.generate_stream(&Prompt::text(prompt), &options, &mut on_text).unwrap();
        assert_eq!(pieces.concat(), found.text);
        assert!(pieces.len() > 3 && pieces.iter().all(|piece| !piece.is_empty()), "{pieces:?}");
        assert_eq!(generate(&model, &texts(&[prompt]), &options).remove(0), found);
    }
}

#[test]
fn a_stream_ends_when_it_is_told_to() {
    let model = open("a-chat");
    let mut calls = 0;
    let mut on_text = |_: &str| {
        calls += 1;
        if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let found = model.generate_stream(&Prompt::text("x"), &options(24), &mut on_text).unwrap();
    assert_eq!((found.finish, calls), (Finish::Cancelled, 3));
    assert!(" = [7,7,2,2]; print(x[0]) -> 7\n".starts_with(&found.text) && !found.text.is_empty());
}

#[test]
fn long_prompts_are_refused_or_cut_on_the_left() {
    let model = open("a-chat");
    let ids: Vec<u32> = model.tokenizer.encode(&SUM.repeat(30), true).unwrap();
    assert!(ids.len() > 256);
    let prompts = [Prompt::text("x"), Prompt::tokens(ids.clone())];
    let error = model.generate(&prompts, &options(16), &|_| ()).unwrap_err();
    let expected =
        format!("prompt 1 has {} tokens; with 16 new ones that is more than the 256 positions of the model", ids.len());
    assert_eq!(error.chain(), expected);

    let cut = GenerateOptions { truncate_left: true, ..options(16) };
    let found = generate(&model, &prompts, &cut);
    assert_eq!((found[0].truncated, found[1].truncated, found[1].prompt_tokens), (0, ids.len() - 240, 240));
    let tail = generate(&model, &[Prompt::tokens(&ids[ids.len() - 240..])], &options(16)).remove(0);
    assert_eq!((&tail.tokens, tail.truncated), (&found[1].tokens, 0));
    let full = GenerateOptions { truncate_left: true, ..options(256) };
    assert!(matches!(model.generate(&prompts, &full, &|_| ()), Err(TextError::PromptTooLong { prompt: 0, .. })));
}

#[test]
fn wrong_options_and_prompts_are_refused_by_name() {
    let model = open("a-chat");
    let refused = |options: GenerateOptions| model.generate(&texts(&["x"]), &options, &|_| ()).unwrap_err().chain();
    assert_eq!(refused(options(0)), "max_new_tokens is 0, expected at least 1");
    assert_eq!(refused(GenerateOptions { samples: 0, ..options(1) }), "samples is 0, expected at least 1");
    assert_eq!(refused(GenerateOptions { rows_per_pass: 0, ..options(1) }), "rows_per_pass is 0, expected at least 1");
    assert_eq!(refused(GenerateOptions { max_sequences: 0, ..options(1) }), "max_sequences is 0, expected at least 1");
    let empty_stop = GenerateOptions { stop: vec!["a".into(), String::new()], ..options(1) };
    assert_eq!(refused(empty_stop), "stop is [\"a\", \"\"], expected no empty string");
    let cold = GenerateOptions { sampling: Sampling { temperature: -1.0, ..Sampling::default() }, ..options(1) };
    assert_eq!(refused(cold), "temperature is -1, expected a number from 0");

    let none = |prompt| model.generate(&[prompt], &options(1), &|_| ()).unwrap_err();
    assert!(matches!(none(Prompt::tokens([])), TextError::EmptyPrompt { prompt: 0 }));
    assert!(matches!(none(Prompt::rendered("")), TextError::EmptyPrompt { prompt: 0 }));
    assert!(matches!(none(Prompt::tokens([512])), TextError::Model(LmError::Token { token: 512, .. })));
    assert!(generate(&model, &[], &options(1)).is_empty());
}

#[test]
fn progress_counts_every_sequence_once() {
    let model = open("a-chat");
    let ended = AtomicUsize::new(0);
    let progress = |count| {
        ended.fetch_add(count, Ordering::Relaxed);
    };
    let several = GenerateOptions { samples: 3, max_sequences: 2, ..random(0, 5) };
    model.generate(&texts(&[PET, SUM, CODE]), &several, &progress).unwrap();
    assert_eq!(ended.load(Ordering::Relaxed), 9);
}

/// A model of the zoo with changes to its configuration and its tensors.
fn changed(change: impl Fn(&mut Value), edit: impl Fn(&str, glue_lm::Weight) -> glue_lm::Weight) -> TextModel {
    let directory = data("zoo").join("a-chat");
    let mut config: Value =
        serde_json::from_str(&std::fs::read_to_string(directory.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    let weights = Weights::from_checkpoint(std::sync::Arc::new(Checkpoint::open(&directory).unwrap()));
    let tensors = weights.names().into_iter().map(|name| {
        let weight = weights.get(name).unwrap().unwrap();
        (name.to_string(), edit(name, weight))
    });
    let model = Model::new(&Config::from_value(config).unwrap(), Weights::from_tensors(tensors)).unwrap();
    TextModel::new(model, Tokenizer::load(&directory).unwrap()).unwrap()
}

#[test]
fn a_model_that_computes_no_number_is_an_error() {
    let nan = |name: &str, weight: glue_lm::Weight| match name {
        "model.norm.weight" => {
            let bytes: Vec<u8> = f32::NAN.to_le_bytes().repeat(weight.shape()[0]);
            glue_lm::Weight::owned(glue_tensor::Dtype::F32, weight.shape().to_vec(), bytes).unwrap()
        }
        _ => weight,
    };
    let model = changed(|_| (), nan);
    let error = model.generate(&texts(&[PET]), &options(3), &|_| ()).unwrap_err();
    let choice =
        matches!(&error, TextError::Choice { prompt: 0, step: 0, error: SamplingError::Score { token: 0, .. } });
    assert!(choice, "{error}");
}

#[test]
fn a_cache_filled_under_another_rotation_is_not_used() {
    // Beyond 40 tokens all tokens are rotated otherwise, those before as well. Generation crosses that length.
    let longrope = |config: &mut Value| {
        config["rope_parameters"] = json!({
            "rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 40,
            "short_factor": vec![1.0; 16], "long_factor": (0..16).map(|i| 1.0 + f64::from(i) / 4.0).collect::<Vec<f64>>(),
        });
        config["original_max_position_embeddings"] = 40.into();
        config.as_object_mut().unwrap().remove("rope_theta");
    };
    let model = changed(longrope, |_, weight| weight);
    assert!(!model.model.same_rotation(40, 41) && model.model.same_rotation(1, 40));
    // Shorter, crossing at once, longer: two of these share their beginning.
    let prompts: Vec<Vec<u32>> = [36, 40, 60, 61].map(|n| (0..n).map(|i| 20 + i * 7 % 90).collect()).into();
    let given: Vec<Prompt> = prompts.iter().map(|ids| Prompt::tokens(ids.as_slice())).collect();
    let found = generate(&model, &given, &GenerateOptions { rows_per_pass: 16, ..options(20) });
    for (found, prompt) in found.iter().zip(&prompts) {
        let mut all = prompt.clone();
        for &token in &found.tokens {
            let mut tree = Tree::new();
            tree.push(None, &all);
            let logits =
                model.model.forward(&mut tree, &Want::LAST).unwrap().logits.to_vec2::<f32>().unwrap().remove(0);
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // The best one of a pass over the whole text, up to rounding.
            assert!(best - logits[token as usize] < 1e-3, "{} tokens", all.len());
            all.push(token);
        }
    }
    assert!(found[0].tokens.len() > 6, "long enough to cross: {:?}", found[0]);
}

/// Models that choose experts by the prompt generate as by passes over the whole text, with prompts that share a
/// prefix.
#[test]
fn experts_chosen_by_the_prompt_stay_while_it_is_answered() {
    let directory = data("zoo").join("base-a");
    let file = std::sync::Arc::new(glue_tensor::Checkpoint::open(&directory).unwrap());
    let base: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(directory.join("config.json")).unwrap()).unwrap();
    let layers = base["num_hidden_layers"].as_u64().unwrap() as usize;
    let hidden = base["hidden_size"].as_u64().unwrap() as usize;
    let others = ["a-math", "a-chat"];
    let others = others.map(|name| std::sync::Arc::new(glue_tensor::Checkpoint::open(data("zoo").join(name)).unwrap()));
    for level in ["ffn", "block", "model"] {
        for (routing, pool) in [("token", "mean"), ("sample", "mean"), ("sample", "last")] {
            let mut tensors = Vec::new();
            for info in file.tensors() {
                let get = |file| glue_lm::Weight::mapped(file, &info.name).unwrap().unwrap();
                let part = info.name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
                let expert = |expert: usize| {
                    let (layer, rest) = part.filter(|(layer, _)| *layer != "0")?;
                    match level {
                        "ffn" => {
                            let rest = rest.strip_prefix("mlp.")?;
                            Some(format!("model.layers.{layer}.mlp.experts.{expert}.{rest}"))
                        }
                        _ => Some(format!("model.layers.{layer}.experts.{expert}.{rest}")),
                    }
                };
                match expert(0) {
                    None => tensors.push((info.name.clone(), get(&file))),
                    Some(_) => {
                        let own = others.iter().enumerate();
                        tensors.extend(own.filter_map(|(e, other)| Some((expert(e)?, get(other)))));
                    }
                }
            }
            let gates: Vec<String> = match level {
                "ffn" => (1..layers).map(|layer| format!("model.layers.{layer}.mlp.gate.weight")).collect(),
                "block" => (1..layers).map(|layer| format!("model.layers.{layer}.gate.weight")).collect(),
                _ => vec!["model.gate.weight".to_owned()],
            };
            for (number, name) in gates.into_iter().enumerate() {
                let values = tokens(2 * hidden, 2000, number as u32).into_iter().map(|t| t as f32 / 1000.0 - 1.0);
                let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
                tensors.push((name, glue_lm::Weight::owned(glue_tensor::Dtype::F32, vec![2, hidden], bytes).unwrap()));
            }
            let config = serde_json::json!({
                "model_type": "glue_mixture", "format_version": 1, "level": level, "experts": ["math", "chat"],
                "experts_per_token": 1, "dense_layers": 1, "mixed_layers": (1..layers).collect::<Vec<_>>(),
                "routing": routing, "pool": pool, "router": { "kind": "linear" }, "base": base,
            });
            let config = glue_tensor::Config::from_value(config).unwrap();
            let model = glue_lm::Model::new(&config, glue_lm::Weights::from_tensors(tensors)).unwrap();
            let text = TextModel::new(model, glue_lm::Tokenizer::load(&directory).unwrap()).unwrap();
            let start = tokens(8, text.model.vocab_size(), 5);
            let mut prompts: Vec<Vec<u32>> = (1..=8).map(|end| start[..end].to_vec()).collect();
            prompts.push(start.clone());
            let inputs: Vec<Prompt> = prompts.iter().map(|tokens| Prompt::tokens(tokens.clone())).collect();
            for rows_per_pass in [3, 2048] {
                let options = GenerateOptions { max_new_tokens: 7, rows_per_pass, ..GenerateOptions::default() };
                let answers = text.generate(&inputs, &options, &|_| ()).unwrap();
                for (answer, prompt) in answers.iter().zip(&prompts) {
                    let mut found: Vec<u32> = Vec::new();
                    while found.len() < answer.tokens.len() {
                        let mut tree = Tree::new();
                        let root = tree.push(None, prompt);
                        let last = if found.is_empty() { root } else { tree.push(Some(root), &found) };
                        let rows =
                            [(last, found.len().max(1) - 1 + if found.is_empty() { prompt.len() - 1 } else { 0 })];
                        let want = Want { logits: Rows::Some(&rows), hidden: &[] };
                        let logits = text.model.forward(&mut tree, &want).unwrap().logits;
                        let logits = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                        found.push(best as u32);
                    }
                    assert_eq!(answer.tokens, found, "{level} {routing} {pool}, {rows_per_pass} rows, {prompt:?}");
                }
            }
        }
    }
}
