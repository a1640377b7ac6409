//! Invalid merges are refused, with a message that says why, the documented exit status, and no files left behind.

use glue_tests::checkpoint::{self, Tensor, with_length};
use glue_tests::run::{Run, binary};
use glue_tests::zoo::{self, Q_PROJ, Zoo};
use serde_json::json;
use std::fs;
use std::process::Command;

/// A refusal: its name, what is done to a zoo of `base`, `a` and `b`, the config, the exit status, and what the message
/// must contain.
type Case = (&'static str, fn(&Zoo), &'static str, i32, &'static [&'static str]);

const LINEAR: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";
const TIES: &str =
    "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";

const AS_IT_IS: fn(&Zoo) = |_| {};

/// Merges, and checks the refusal and that no file or directory came, went or changed.
fn check((name, spoil, config, status, says): &Case) {
    let zoo = Zoo::small();
    spoil(&zoo);
    zoo.write("out.yml", config);
    let before = zoo.listing("");
    let refused = zoo.glue(&["merge", "out.yml", "out"]);
    refused.refused(name, *status, says);
    assert!(zoo.listing("") == before, "{name} left {:?}", zoo.names(""));
}

/// Gives model `b` a file with this header and as many bytes of data.
fn header(zoo: &Zoo, header: &str, n_bytes: usize) {
    let mut file = with_length(header.as_bytes());
    file.resize(file.len() + n_bytes, 0);
    zoo.write("b/model.safetensors", file);
}

#[test]
fn weights_that_break_the_format() {
    const CASES: &[Case] = &[
        (
            "a file that ends early",
            |zoo| {
                let bytes = zoo.bytes("b/model.safetensors");
                zoo.write("b/model.safetensors", &bytes[..bytes.len() - 10]);
            },
            LINEAR,
            1,
            &["out.yml:2:30", "b/model.safetensors", "truncated: 10 bytes are missing", "model.norm.weight"],
        ),
        ("an empty file", |zoo| zoo.write("b/model.safetensors", ""), LINEAR, 1, &["b/model.safetensors", "0 bytes"]),
        (
            "a header beyond the file",
            |zoo| zoo.write("b/model.safetensors", [&1000u64.to_le_bytes()[..], b"{}"].concat()),
            LINEAR,
            1,
            &["b/model.safetensors", "claims 1000 bytes", "only 2 follow"],
        ),
        (
            "a header of absurd length",
            |zoo| zoo.write("b/model.safetensors", [0xff; 64]),
            LINEAR,
            1,
            &["b/model.safetensors", "18446744073709551615 bytes"],
        ),
        ("a header that is no JSON", |zoo| header(zoo, "{\"x\": ", 0), LINEAR, 1, &["b/model.safetensors", "header"]),
        (
            "overlapping tensors",
            |zoo| {
                let text = r#"{"p":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                               "q":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
                header(zoo, text, 12);
            },
            LINEAR,
            1,
            &["b/model.safetensors", "`p` and `q` overlap", "byte 8", "at 4"],
        ),
        (
            "bytes of no tensor",
            |zoo| {
                let text = r#"{"p":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
                header(zoo, text, 8);
            },
            LINEAR,
            1,
            &["4 bytes of the data before tensor `p`"],
        ),
        (
            "a tensor out of the file",
            |zoo| header(zoo, r#"{"p":{"dtype":"F32","shape":[25],"data_offsets":[0,100]}}"#, 8),
            LINEAR,
            1,
            &["b/model.safetensors", "`p`", "8 of 100 bytes"],
        ),
        (
            "bytes after the last tensor",
            |zoo| header(zoo, r#"{"p":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 9),
            LINEAR,
            1,
            &["5 bytes follow the last tensor"],
        ),
        (
            "a range that is not as long as the shape says",
            |zoo| header(zoo, r#"{"p":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
            LINEAR,
            1,
            &["`p`", "[3] takes 12 bytes", "has 8"],
        ),
        (
            "an unknown type",
            |zoo| header(zoo, r#"{"p":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#, 1),
            LINEAR,
            1,
            &["b/model.safetensors", "`p` has type `F4`", "not supported"],
        ),
        (
            "a shape whose size overflows",
            |zoo| header(zoo, r#"{"p":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0),
            LINEAR,
            1,
            &["`p`", "[4294967296, 4294967296]", "overflows"],
        ),
        (
            "a negative extent",
            |zoo| header(zoo, r#"{"p":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4),
            LINEAR,
            1,
            &["tensor `p`", "-1"],
        ),
        (
            "a name that comes twice",
            |zoo| {
                let text = r#"{"p":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                               "p":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
                header(zoo, text, 2);
            },
            LINEAR,
            1,
            &["`p` appears twice"],
        ),
    ];
    CASES.iter().for_each(check);
}

#[test]
fn shards_that_do_not_fit_their_index() {
    /// Model `b` in two shards, with its index changed.
    fn shard(zoo: &Zoo, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
        let tensors = zoo.read("b");
        fs::remove_file(zoo.path("b/model.safetensors")).expect("a file of the zoo");
        checkpoint::write(&zoo.path("b"), &tensors, 2);
        let mut index = zoo.json("b/model.safetensors.index.json");
        edit(index["weight_map"].as_object_mut().expect("a map"));
        zoo.write("b/model.safetensors.index.json", index.to_string());
    }
    const CASES: &[Case] = &[
        (
            "a shard that is missing",
            |zoo| {
                shard(zoo, |_| {});
                fs::remove_file(zoo.path("b/model-00002-of-00002.safetensors")).expect("a shard");
            },
            LINEAR,
            1,
            &["b/model.safetensors.index.json", "`model-00002-of-00002.safetensors`", "4 tensors", "missing"],
        ),
        (
            "a shard without its entry in the index",
            |zoo| shard(zoo, |map| _ = map.remove(Q_PROJ)),
            LINEAR,
            1,
            &[Q_PROJ, "which the index does not mention"],
        ),
        (
            "a tensor that its shard does not hold",
            |zoo| shard(zoo, |map| _ = map.insert("p".into(), "model-00001-of-00002.safetensors".into())),
            LINEAR,
            1,
            &["`p` is mapped to shard `model-00001-of-00002.safetensors`", "does not hold it"],
        ),
        (
            "a shard outside the directory",
            |zoo| shard(zoo, |map| _ = map.insert("p".into(), "../a/model.safetensors".into())),
            LINEAR,
            1,
            &["`../a/model.safetensors`", "not a file below the index"],
        ),
        (
            "an invalid index",
            |zoo| zoo.write("b/model.safetensors.index.json", "[]"),
            LINEAR,
            1,
            &["b/model.safetensors.index.json", "not a safetensors index"],
        ),
    ];
    CASES.iter().for_each(check);
}

#[test]
fn models_that_do_not_fit_together() {
    const CASES: &[Case] = &[
        (
            "shapes that differ",
            |zoo| zoo.edit("b", |tensors| _ = tensors.insert(Q_PROJ.into(), Tensor::f32(&[4, 2], [0.0; 8]))),
            LINEAR,
            2,
            &[Q_PROJ, "[4, 4] in `a`", "[4, 2] in `b`", "hint: "],
        ),
        (
            "vocabularies of different sizes",
            |zoo| {
                let wider = Tensor::f32(&[14, 4], [0.0; 56]);
                zoo.edit("b", |tensors| _ = tensors.insert("model.embed_tokens.weight".into(), wider));
            },
            LINEAR,
            2,
            &["model.embed_tokens.weight", "[12, 4] in `a`", "[14, 4] in `b`", "hint: the vocabularies"],
        ),
        (
            "vocabularies with different tokens, and one tokenizer asked for",
            |zoo| zoo.write("b/tokenizer.json", zoo::tokenizer(11).to_string()),
            "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\ntokenizer_source: base\n",
            2,
            &["out.yml:4:19", "`a` and `b` differ", "t11", "hint: "],
        ),
        (
            "a tensor that one model lacks",
            |zoo| zoo.edit("b", |tensors| _ = tensors.remove(Q_PROJ)),
            LINEAR,
            2,
            &[Q_PROJ, "is in `a`, but not in `b`", "hint: `on_missing: base`"],
        ),
        (
            "a tensor that the base lacks",
            |zoo| zoo.edit("base", |tensors| _ = tensors.remove(Q_PROJ)),
            TIES,
            2,
            &[Q_PROJ, "not in `base`"],
        ),
        (
            "numbers in one model and whole numbers in another",
            |zoo| zoo.edit("b", |tensors| _ = tensors.insert(Q_PROJ.into(), Tensor::i64(&[4, 4], [0; 16]))),
            LINEAR,
            2,
            &[Q_PROJ, "F32 in `a`", "I64 in `b`"],
        ),
        (
            "a NaN",
            |zoo| {
                let values = (0..16).map(|i| if i == 5 { f32::NAN } else { 0.0 });
                zoo.edit("b", |tensors| _ = tensors.insert(Q_PROJ.into(), Tensor::f32(&[4, 4], values)));
            },
            LINEAR,
            1,
            &[Q_PROJ, "of b holds NaN at index 5"],
        ),
        (
            "an infinity in a 16-bit base",
            |zoo| {
                let values = (0..16).map(|i| if i == 7 { f32::NEG_INFINITY } else { 0.0 });
                zoo.edit("base", |tensors| _ = tensors.insert(Q_PROJ.into(), Tensor::bf16(&[4, 4], values)));
            },
            TIES,
            1,
            &[Q_PROJ, "of base holds -inf at index 7"],
        ),
        (
            "models with different numbers of layers",
            |zoo| {
                zoo.edit("b", |tensors| tensors.retain(|name, _| !name.contains("layers.1")));
                zoo.set("b", "num_hidden_layers", 1.into());
            },
            LINEAR,
            2,
            &["out.yml:2:30", "`b` has 1 layers", "`a` has 2", "hint: `slices`"],
        ),
        (
            "a range beyond the last layer",
            AS_IT_IS,
            "merge_method: passthrough\nslices:\n- sources:\n  - {model: a, layer_range: [1, 3]}\n",
            2,
            &["out.yml:4:29", "[1, 3]", "`a` has 2 layers", "hint: "],
        ),
        (
            "a quantised model",
            |zoo| zoo.set("b", "quantization_config", json!({ "quant_method": "gptq" })),
            LINEAR,
            2,
            &["`b` is quantised (gptq)", "hint: "],
        ),
    ];
    CASES.iter().for_each(check);
}

#[test]
fn models_that_are_not_there() {
    const CASES: &[Case] = &[
        (
            "no such path",
            AS_IT_IS,
            "merge_method: linear\nmodels: [{model: a}, {model: c}]\nparameters: {weight: 0.5}\n",
            2,
            &["out.yml:2:30", "c: no such directory", "hint: model paths are relative to the working directory, /"],
        ),
        (
            "a file instead of a directory",
            AS_IT_IS,
            "merge_method: linear\nmodels: [{model: a/model.safetensors}]\nparameters: {weight: 0.5}\n",
            2,
            &["a/model.safetensors", "this is a file"],
        ),
        (
            "an adapter that is not there",
            AS_IT_IS,
            "merge_method: linear\nmodels: [{model: a+lora}]\nparameters: {weight: 0.5}\n",
            2,
            &["out.yml:2:18", "lora: no such directory", "adapter_config.json", "hint: the path after a plus sign"],
        ),
        (
            "no configuration",
            |zoo| fs::remove_file(zoo.path("b/config.json")).expect("a file of the zoo"),
            LINEAR,
            2,
            &["b: no config.json"],
        ),
        ("a configuration that is no JSON", |zoo| zoo.write("b/config.json", "{"), LINEAR, 1, &["b/config.json"]),
        (
            "no weights",
            |zoo| fs::remove_file(zoo.path("b/model.safetensors")).expect("a file of the zoo"),
            LINEAR,
            1,
            &["b: no safetensors file"],
        ),
        (
            "weights of another format",
            |zoo| {
                let from = zoo.path("b/model.safetensors");
                fs::rename(from, zoo.path("b/pytorch_model.bin")).expect("a file of the zoo");
            },
            LINEAR,
            1,
            &["b: no safetensors file", "found pytorch_model.bin", "safe_serialization=True"],
        ),
    ];
    CASES.iter().for_each(check);
}

#[test]
fn configs_that_mean_nothing() {
    const CASES: &[Case] = &[
        ("no YAML", AS_IT_IS, "merge_method: [linear\n", 2, &["out.yml:", "not valid YAML"]),
        ("nothing", AS_IT_IS, "# nothing\n", 2, &["out.yml: no recipe"]),
        ("a list", AS_IT_IS, "- a\n- b\n", 2, &["out.yml:1:1", "a recipe must be a mapping", "found [`a`, `b`]"]),
        (
            "models that are no list",
            AS_IT_IS,
            "merge_method: linear\nmodels: a\n",
            2,
            &["out.yml:2:9", "`models` must be a list", "found `a`"],
        ),
        (
            "an unknown key",
            AS_IT_IS,
            "merge_method: linear\nmodel: [{model: a}]\n",
            2,
            &["out.yml:2:1", "no key `model`", "did you mean `models`?"],
        ),
        (
            "a key that comes twice",
            AS_IT_IS,
            "merge_method: linear\nmerge_method: ties\n",
            2,
            &["out.yml:2:1", "`merge_method` comes twice"],
        ),
        ("neither models nor slices", AS_IT_IS, "merge_method: linear\n", 2, &["out.yml:1:1", "`models`, `slices`"]),
        (
            "an unknown operator",
            AS_IT_IS,
            "merge_method: tise\nmodels: [{model: a}]\n",
            2,
            &["out.yml:1:15", "`tise`", "did you mean `ties`?"],
        ),
        (
            "an unknown parameter",
            AS_IT_IS,
            "merge_method: linear\nmodels:\n- model: a\n  parameters: {wieght: 1}\n",
            2,
            &["out.yml:4:16", "linear has no parameter `wieght`", "did you mean `weight`?"],
        ),
        (
            "a missing parameter",
            AS_IT_IS,
            "merge_method: linear\nmodels:\n- model: a\n  parameters: {weight: 1}\n- model: b\n",
            2,
            &["out.yml:1:15", "needs `weight` for every model", "missing for `b`", "hint: "],
        ),
        (
            "a parameter missing under a filter",
            AS_IT_IS,
            "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: [{filter: mlp, value: 0.5}]}\n",
            2,
            &["slerp needs", "`t`", "hint: a value under the top-level"],
        ),
        (
            "a parameter out of range",
            AS_IT_IS,
            "merge_method: ties\nbase_model: base\nmodels:\n- model: a\n  parameters: {weight: 1, density: [0.5, 1.5]}\n",
            2,
            &["out.yml:5:42", "ties: `density` must be", "found 1.5"],
        ),
        (
            "a density of 0",
            AS_IT_IS,
            "merge_method: ties\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1, density: 0}\n",
            2,
            &["out.yml:4:34", "ties: `density` must be a number above 0 and at most 1, found 0"],
        ),
        (
            "an epsilon that the density has no room for",
            AS_IT_IS,
            "merge_method: della\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1, density: 0.9, epsilon: 0.2}\n",
            2,
            &["della: `epsilon` must be at most", "density 0.9"],
        ),
        (
            "one model where two are needed",
            AS_IT_IS,
            "merge_method: slerp\nbase_model: a\nmodels: [{model: a}]\nparameters: {t: 0.5}\n",
            2,
            &["out.yml:3:", "slerp merges", "found 0"],
        ),
        (
            "one model too many",
            AS_IT_IS,
            "merge_method: slerp\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.5}\n",
            2,
            &["slerp merges exactly 1", "found 2"],
        ),
        (
            "no base",
            AS_IT_IS,
            "merge_method: ties\nmodels: [{model: a}]\nparameters: {weight: 1}\n",
            2,
            &["out.yml:", "ties needs a base model", "hint: name it with `base_model"],
        ),
        (
            "an empty range of layers",
            AS_IT_IS,
            "merge_method: passthrough\nslices:\n- sources:\n  - {model: a, layer_range: [1, 1]}\n",
            2,
            &["out.yml:4:29", "`layer_range`", "[1, 1]"],
        ),
        (
            "an unknown type",
            AS_IT_IS,
            "merge_method: linear\nmodels: [{model: a}]\ndtype: bf17\n",
            2,
            &["out.yml:3:8", "`bfloat16`", "`bf17`"],
        ),
        (
            "a negative seed",
            AS_IT_IS,
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\nseed: -1\n",
            2,
            &["out.yml:4:7", "`seed`", "-1"],
        ),
        (
            "a stand-in without a base",
            AS_IT_IS,
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\non_missing: base\n",
            2,
            &["out.yml:4:13", "without `base_model`"],
        ),
        (
            "several stages",
            AS_IT_IS,
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n---\nmerge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n",
            2,
            &["2 documents", "hint: glue multi"],
        ),
    ];
    CASES.iter().for_each(check);
}

#[test]
fn stages_that_do_not_follow_from_each_other() {
    let check = |name, config: &str, says: &[&str]| {
        let zoo = Zoo::small();
        zoo.write("stages.yml", config);
        let before = zoo.listing("");
        zoo.glue(&["multi", "stages.yml", "out"]).refused(name, 2, says);
        assert!(zoo.listing("") == before, "{name} left {:?}", zoo.names(""));
    };
    let stage = |name: &str, model: &str| {
        format!("---\n{name}merge_method: linear\nmodels: [{{model: {model}}}]\nparameters: {{weight: 1}}\n")
    };
    check(
        "no name",
        &(stage("", "a") + &stage("", "b")),
        &["stages.yml:6:1", "document 2 of 2 has no `name`, as document 1"],
    );
    check(
        "a name twice",
        &(stage("name: x\n", "a") + &stage("name: x\n", "b") + &stage("", "x")),
        &["stages.yml:7:7", "`x`", "line 2"],
    );
    check(
        "stages that need each other",
        &(stage("name: x\n", "y") + &stage("name: y\n", "x") + &stage("", "x")),
        &["stages.yml:2:7", "`x` needs `y` needs `x`"],
    );
    check("a path as a name", &(stage("name: ../x\n", "a") + &stage("", "b")), &["stages.yml:2:7", "letters, digits"]);
}

#[test]
fn command_lines_that_mean_nothing() {
    let check = |args: &[&str], says: &[&str]| {
        let zoo = Zoo::small();
        zoo.write("out.yml", LINEAR);
        let before = zoo.listing("");
        zoo.glue(args).refused(&args.join(" "), 2, says);
        assert!(zoo.listing("") == before, "{args:?} left {:?}", zoo.names(""));
    };
    check(&["merge", "none.yml", "out"], &["none.yml"]);
    check(&["merge", "out.yml"], &["<OUT_DIR>"]);
    check(&["merge", "out.yml", "out", "--threads", "0"], &["--threads"]);
    check(&["merge", "out.yml", "out", "--max-shard-size", "5B"], &["--max-shard-size", "bytes or billions"]);
    check(&["merge", "out.yml", "out", "--dtype", "int8"], &["--dtype", "bfloat16"]);
    check(&["merge", "out.yml", "out", "--seed=-1"], &["--seed"]);
    check(&["merge", "out.yml", "out", "--cuda"], &["--cuda", "hint: leave out --cuda"]);
}

/// This build links no driver: `cuda` is refused before anything is written, and `auto` takes the CPU and says why.
#[test]
fn devices_that_are_not_there() {
    let zoo = Zoo::small();
    zoo.write("out.yml", LINEAR);
    let before = zoo.listing("");
    let refused = zoo.glue(&["merge", "out.yml", "out", "--device", "cuda"]);
    refused.refused("a device", 1, &["built without CUDA", "docs/cuda.md", "--device auto"]);
    assert!(zoo.listing("") == before);
    zoo.glue(&["merge", "out.yml", "out", "--device", "gpu"]).refused("no device", 2, &["cpu, cuda or auto", "gpu"]);
    zoo.glue(&["merge", "out.yml", "processor"]).ok();
    let automatic = zoo.glue(&["merge", "out.yml", "automatic", "--device", "auto"]);
    automatic.ok_with_note("merging on the CPU: this program was built without CUDA");
    zoo.glue(&["merge", "out.yml", "quiet", "--device", "auto", "--quiet"]).ok();
    let weights = |out: &str| zoo.bytes(&format!("{out}/model.safetensors"));
    assert!(weights("processor") == weights("automatic"));
}

#[test]
fn places_that_are_taken() {
    let check = |name, take: fn(&Zoo), out: &str, says: &[&str]| {
        let zoo = Zoo::small();
        zoo.write("out.yml", LINEAR);
        take(&zoo);
        let before = zoo.listing("");
        zoo.glue(&["merge", "out.yml", out]).refused(name, 1, says);
        assert!(zoo.listing("") == before, "{name} left {:?}", zoo.names(""));
    };
    let full = |zoo: &Zoo| {
        fs::create_dir(zoo.path("out")).expect("a temporary directory");
        zoo.write("out/precious", "kept");
    };
    check("a directory with something in it", full, "out", &["out: the directory exists and is not empty", "hint: "]);
    check("a file", |zoo| zoo.write("out", "kept"), "out", &["out: exists and is not a directory", "hint: "]);
    check("a path through a file", |zoo| zoo.write("file", "kept"), "file/out", &["file"]);
    check("an input", |_| {}, "a", &["a: the directory exists and is not empty"]);
}

#[test]
fn an_empty_directory_is_no_obstacle() {
    let zoo = Zoo::small();
    fs::create_dir(zoo.path("out")).expect("a temporary directory");
    zoo.merge(LINEAR, "out", &[]).ok();
    assert_eq!(zoo.read("out").len(), 9);
}

/// Runs `script` with the path of `glue` as `$0` in a zoo that has [`LINEAR`] as `out.yml`; the output is to go to
/// `out`.
fn in_a_shell(zoo: &Zoo, program: &[&str], script: &str) -> Run {
    zoo.write("out.yml", LINEAR);
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).args(["sh", "-c", script]).arg(binary()).current_dir(zoo.directory());
    Run::of(&mut command)
}

#[test]
fn a_file_that_may_not_grow() {
    let zoo = Zoo::small();
    zoo.edit("a", |tensors| _ = tensors.insert("extra".into(), Tensor::f32(&[1 << 14], vec![0.0; 1 << 14])));
    zoo.edit("b", |tensors| _ = tensors.insert("extra".into(), Tensor::f32(&[1 << 14], vec![0.0; 1 << 14])));
    zoo.write("out.yml", LINEAR);
    let before = zoo.listing("");
    // 16 blocks of 512 or 1024 bytes are enough for every file but the weights. By default the signal kills.
    let run = in_a_shell(&zoo, &["env"], "ulimit -f 16; exec \"$0\" merge out.yml out");
    run.refused("RLIMIT_FSIZE", 1, &["model.safetensors", "the file size limit is reached"]);
    assert!(zoo.listing("") == before, "left {:?}", zoo.names(""));
}

#[test]
fn a_full_disk() {
    // A file system that only this shell and what it starts can see. It holds the weights without what is added below.
    let script = "mkdir disk && mount -t tmpfs -o size=64k none disk || exit 77
                  \"$0\" merge out.yml disk/out; status=$?; ls -A disk; exit $status";
    let check = |name, prepare: fn(&Zoo), says: &[&str]| {
        let zoo = Zoo::small();
        prepare(&zoo);
        let run = in_a_shell(&zoo, &["env", "unshare", "--mount", "--map-root-user"], script);
        if run.status == Some(77) || ["unshare: ", "env: "].iter().any(|program| run.err.starts_with(program)) {
            println!("skipped: no file system can be mounted here: {}", run.err.trim());
            return;
        }
        run.refused(name, 1, &[says, &["no space left", "bytes are needed", "are free", "hint: --dry-run"]].concat());
    };
    let heavier = |zoo: &Zoo| {
        for model in ["a", "b"] {
            zoo.edit(model, |tensors| _ = tensors.insert("extra".into(), Tensor::f32(&[1 << 15], vec![0.0; 1 << 15])));
        }
    };
    check("weights", heavier, &["disk/out: no space"]);
    check("a tokenizer file", |zoo| zoo.write("a/merges.txt", vec![b' '; 1 << 16]), &["merges.txt: no space"]);
}

#[test]
fn errors_of_tensors_and_slices_are_reported_together() {
    let zoo = Zoo::small();
    let (norm, up) = ("model.norm.weight", "model.layers.0.mlp.up_proj.weight");
    zoo.edit("b", |tensors| {
        tensors.remove(norm);
        tensors.insert(up.to_string(), Tensor::f32(&[4, 8], [0.0; 32]));
    });
    let run = zoo.merge(LINEAR, "out", &[]);
    assert_eq!(run.status, Some(2), "{run:?}");
    for words in [norm, up, "[8, 4]", "[4, 8]"] {
        assert!(run.err.contains(words), "{words}: {}", run.err);
    }
    // A model of another width has as many errors as tensors.
    zoo.edit("b", |tensors| {
        for tensor in tensors.values_mut() {
            *tensor = Tensor::f32(&[1], [0.0]);
        }
    });
    let run = zoo.merge(LINEAR, "out", &[]);
    let errors = run.err.matches("error: ").count();
    assert!(run.status == Some(2) && errors == 9 && run.err.contains("more errors in other tensors"), "{}", run.err);

    let slices = "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 3]}]\n\
                  - sources: [{model: a, layer_range: [1, 5]}]\n";
    let run = zoo.merge(slices, "out", &[]);
    for words in ["out.yml:3", "out.yml:4"] {
        assert!(run.status == Some(2) && run.err.contains(words), "{words}: {}", run.err);
    }
    // So are those of an extraction.
    zoo.add("fine", &zoo.read("a"));
    zoo.edit("fine", |tensors| {
        tensors.remove(norm);
        tensors.insert(up.to_string(), Tensor::f32(&[4, 8], [0.0; 32]));
    });
    let run = zoo.glue(&["extract-lora", "a", "fine", "out"]);
    assert!(run.status == Some(2) && run.err.contains(norm) && run.err.contains(up), "{}", run.err);
    assert!(!zoo.path("out").exists());
}
