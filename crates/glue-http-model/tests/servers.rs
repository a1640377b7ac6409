//! All dialects against a stand-in whose answers follow from token ids by a rule, and everything that can go wrong.

use glue_eval::{GenerateRequest, LanguageModel, LogLikelihoodRequest, ModelError, PromptEncoder, Sampling};
use glue_http_model::{Dialect, HttpModel, ServerError, ServerOptions};
use glue_lm::Tokenizer;
use glue_progress::CancelToken;
use glue_tests::server::{self, FakeServer, Fault, Kind};
use glue_tests::shipped;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const KINDS: [Kind; 4] = [Kind::Vllm, Kind::Sglang, Kind::LlamaCpp, Kind::OpenAi];

fn directory() -> PathBuf {
    shipped().join("a-math")
}

fn options() -> ServerOptions {
    let mut options = ServerOptions::default();
    options.first_wait = Duration::from_millis(1);
    options
}

fn connect(server: &FakeServer, change: impl FnOnce(&mut ServerOptions)) -> Result<HttpModel, ServerError> {
    let mut options = options();
    change(&mut options);
    HttpModel::connect(directory(), &server.url(), &options)
}

fn dialect(kind: Kind) -> Dialect {
    match kind {
        Kind::Vllm => Dialect::Vllm,
        Kind::Sglang => Dialect::Sglang,
        Kind::LlamaCpp => Dialect::LlamaCpp,
        Kind::OpenAi => Dialect::OpenAi,
    }
}

/// How the model encodes, as a model in this process does.
struct Encoder(Tokenizer, PromptEncoder);

impl Encoder {
    fn new(max_length: usize) -> Encoder {
        let tokenizer = Tokenizer::load(directory()).unwrap();
        let prompts = PromptEncoder::new(&tokenizer, max_length).unwrap();
        Encoder(tokenizer, prompts)
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, ModelError> {
        self.0.encode(text, special).map_err(ModelError::caused_by)
    }
}

fn nothing(_: usize) {}

const QUESTIONS: [LogLikelihoodRequest<'static>; 5] = [
    LogLikelihoodRequest { context: "Q: What is 3 + 4? A:", continuation: " 7" },
    LogLikelihoodRequest { context: "Q: What is 3 + 4? A:", continuation: " seventeen" },
    LogLikelihoodRequest { context: "Q: What is 3 + 4? A:", continuation: " seventy" },
    LogLikelihoodRequest { context: "", continuation: "The job of doquo" },
    LogLikelihoodRequest { context: "naïve ", continuation: "café" },
];

/// Log-probability and greediness of tokens by the rule.
fn by_rule(context: &[u32], continuation: &[u32]) -> (f64, bool) {
    let mut tokens = context.to_vec();
    let (mut sum, mut greedy) = (0.0, true);
    for &token in continuation {
        sum += server::logprob(&tokens, token);
        greedy &= server::likeliest(&tokens) == token;
        tokens.push(token);
    }
    (sum, greedy)
}

#[test]
fn every_dialect_is_recognized() {
    for kind in KINDS {
        let server = FakeServer::start(kind).unwrap();
        let model = connect(&server, |_| {}).unwrap();
        assert_eq!((model.server().dialect, model.server().model.as_str()), (dialect(kind), "rule"));
        assert_eq!(model.note().is_some(), kind == Kind::LlamaCpp);
        assert!(model.content_hash().unwrap().is_none(), "nothing is cached");
        server.behave(|behaviour| behaviour.anonymous = true);
        let found = connect(&server, |_| {}).unwrap().server().dialect;
        // vLLM looks like any server with OpenAI's completions then.
        assert_eq!(found, if kind == Kind::Vllm { Dialect::OpenAi } else { dialect(kind) });
        let named = connect(&server, |options| options.dialect = Some(dialect(kind))).unwrap();
        assert_eq!(named.server().dialect, dialect(kind));
    }
}

#[test]
fn continuations_are_scored_by_the_rule() {
    let encoder = Encoder::new(254);
    let pairs = encoder.1.pairs(&QUESTIONS, &|text, special| encoder.encode(text, special)).unwrap();
    for kind in KINDS {
        let server = FakeServer::start(kind).unwrap();
        let model = connect(&server, |_| {}).unwrap();
        let done = AtomicUsize::new(0);
        let progress = |count: usize| {
            done.fetch_add(count, Ordering::Relaxed);
        };
        server.take_requests();
        let found = model.loglikelihoods(&QUESTIONS, &progress).unwrap();
        if kind == Kind::LlamaCpp {
            let n_probs = |request: &glue_tests::hub::Request| {
                serde_json::from_slice::<serde_json::Value>(&request.body).unwrap()["n_probs"].as_u64().unwrap()
            };
            let asked: Vec<u64> = server.take_requests().iter().map(n_probs).collect();
            assert!(asked.contains(&1) && asked.contains(&512), "tokens with and without probabilities: {asked:?}");
        }
        assert_eq!((found.len(), done.into_inner()), (QUESTIONS.len(), QUESTIONS.len()));
        for (found, pair) in found.iter().zip(&pairs) {
            let (logprob, greedy) = by_rule(&pair.context, &pair.continuation);
            assert!((found.logprob - logprob).abs() < 1e-9, "{kind:?}: {found:?}, expected {logprob}");
            assert_eq!((found.greedy, found.n_tokens, found.truncated), (greedy, pair.continuation.len(), 0));
        }
    }
}

#[test]
fn a_likeliest_continuation_is_greedy() {
    let encoder = Encoder::new(254);
    // A letter that the rule likes best after some context.
    let letters: Vec<String> = ('a'..='z').map(|letter| letter.to_string()).collect();
    let contexts: Vec<String> = (0..400).map(|number| format!("Q{number}:")).collect();
    let is_greedy = |context: &str, letter: &str| {
        let request = [LogLikelihoodRequest { context, continuation: letter }];
        let pairs = encoder.1.pairs(&request, &|text, special| encoder.encode(text, special)).unwrap();
        by_rule(&pairs[0].context, &pairs[0].continuation).1
    };
    let (context, letter) = contexts
        .iter()
        .flat_map(|context| letters.iter().map(move |letter| (context, letter)))
        .find(|(context, letter)| is_greedy(context, letter))
        .expect("one of 10 400");
    for kind in KINDS {
        let server = FakeServer::start(kind).unwrap();
        let request = [LogLikelihoodRequest { context, continuation: letter }];
        let found = connect(&server, |_| {}).unwrap().loglikelihoods(&request, &nothing).unwrap();
        assert!(found[0].greedy, "{kind:?} {context:?} {letter:?}");
    }
}

#[test]
fn texts_are_scored_in_windows() {
    let long = "The job of doquo is 17. ".repeat(40);
    let texts = [long.as_str(), "", "naïve café"];
    for (kind, max_length) in [(Kind::Vllm, 254), (Kind::Sglang, 249), (Kind::LlamaCpp, 255), (Kind::OpenAi, 256)] {
        let server = FakeServer::start(kind).unwrap();
        let found = connect(&server, |_| {}).unwrap().rolling(&texts, &nothing).unwrap();
        let encoder = Encoder::new(max_length);
        let windows = encoder.1.windows(&texts, &|text, special| encoder.encode(text, special)).unwrap();
        assert!(windows[0].len() > 1);
        for (found, windows) in found.iter().zip(&windows) {
            let expected: f64 = windows.iter().map(|pair| by_rule(&pair.context, &pair.continuation).0).sum();
            assert!(
                (found.logprob - expected).abs() < 1e-9 * expected.abs(),
                "{kind:?}: {found:?}, expected {expected}"
            );
            let n_tokens: usize = windows.iter().map(|pair| pair.continuation.len()).sum();
            assert_eq!(found.n_tokens, n_tokens);
        }
    }
}

fn request<'a>(context: &'a str, until: &'a [String], sampling: Sampling, n: usize) -> GenerateRequest<'a> {
    GenerateRequest { context, until, max_new_tokens: 12, sampling, n }
}

#[test]
fn answers_are_what_the_rule_generates() {
    let encoder = Encoder::new(256);
    let tokens = |text: &str| encoder.encode(text, true).unwrap();
    let whole = server::continued(&tokens("Q: 3 + 4 A:"), 12);
    let stop = [String::new(), server::text(&whole[2..4])];
    let requests =
        [request("Q: 3 + 4 A:", &[], Sampling::GREEDY, 2), request("Q: 3 + 4 A:", &stop, Sampling::GREEDY, 1)];
    for kind in KINDS {
        let server = FakeServer::start(kind).unwrap();
        let found = connect(&server, |_| {}).unwrap().generate(&requests, &nothing).unwrap();
        assert_eq!(found[0].len(), 2, "{kind:?}");
        assert_eq!((&found[0][0], found[0][0].text.as_str()), (&found[0][1], server::text(&whole).as_str()));
        assert_eq!(
            (found[0][0].n_tokens, found[1][0].text.as_str()),
            (whole.len(), server::text(&whole[..2]).as_str())
        );
    }
}

#[test]
fn what_a_dialect_lacks_is_refused() {
    let drawn = Sampling { temperature: 0.5, seed: 7, ..Sampling::GREEDY };
    let top_k = Sampling { top_k: Some(3), ..drawn };
    let penalty = Sampling { repetition_penalty: 1.5, ..Sampling::GREEDY };
    for (kind, sampling, expected) in [
        (Kind::Sglang, drawn, Some("sampling at temperature 0.5 with a seed for each request, which sglang")),
        (Kind::OpenAi, top_k, Some("sampling with top_k, which openai cannot be asked for")),
        (Kind::LlamaCpp, penalty, Some("a repetition penalty of 1.5, which llama-cpp")),
        (Kind::OpenAi, drawn, None),
        (Kind::LlamaCpp, top_k, None),
        (Kind::Vllm, penalty, None),
    ] {
        let server = FakeServer::start(kind).unwrap();
        let model = connect(&server, |_| {}).unwrap();
        server.take_requests();
        let found = model.generate(&[request("a", &[], sampling, 3)], &nothing);
        match expected {
            Some(expected) => assert!(found.unwrap_err().message.starts_with(expected), "{kind:?}"),
            None => {
                assert_eq!(found.unwrap()[0].len(), 3, "{kind:?}");
                let mut seeds: Vec<u64> = server
                    .take_requests()
                    .iter()
                    .map(|request| serde_json::from_slice::<serde_json::Value>(&request.body).unwrap()["seed"].as_u64())
                    .map(|seed| seed.unwrap())
                    .collect();
                seeds.sort_unstable();
                seeds.dedup();
                assert_eq!(seeds.len(), if sampling.temperature == 0.0 { 1 } else { 3 }, "{kind:?}");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_how_many_requests_are_under_way() {
    let server = FakeServer::start(Kind::Vllm).unwrap();
    server.behave(|behaviour| behaviour.delay = Duration::from_millis(20));
    let contexts: Vec<String> = (0..24).map(|number| format!("Q: {number} A:")).collect();
    let requests: Vec<LogLikelihoodRequest<'_>> =
        contexts.iter().map(|context| LogLikelihoodRequest { context, continuation: " yes" }).collect();
    let ask = |concurrency: usize| {
        let model = connect(&server, |options| options.concurrency = concurrency).unwrap();
        model.loglikelihoods(&requests, &nothing).unwrap()
    };
    let one = ask(1);
    assert_eq!(server.most_at_once(), 1);
    assert_eq!(ask(8), one);
    assert!((2..=8).contains(&server.most_at_once()), "{}", server.most_at_once());
    // A server of llama.cpp is asked as much as it has slots.
    let server = FakeServer::start(Kind::LlamaCpp).unwrap();
    server.behave(|behaviour| behaviour.delay = Duration::from_millis(5));
    connect(&server, |_| {}).unwrap().loglikelihoods(&requests, &nothing).unwrap();
    assert!((2..=3).contains(&server.most_at_once()), "{}", server.most_at_once());
}

#[test]
fn choices_that_begin_alike_are_asked_once() {
    let server = FakeServer::start(Kind::LlamaCpp).unwrap();
    let model = connect(&server, |_| {}).unwrap();
    server.take_requests();
    model.loglikelihoods(&QUESTIONS[..3], &nothing).unwrap();
    let asked: Vec<Vec<u8>> = server.take_requests().into_iter().map(|request| request.body).collect();
    let mut unique = asked.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(asked.len(), unique.len());
}

#[test]
fn a_wrong_answer_is_an_error_in_words() {
    let score = |model: &HttpModel| model.loglikelihoods(&QUESTIONS[..1], &nothing).unwrap_err();
    for kind in KINDS {
        let server = FakeServer::start(kind).unwrap();
        let model = connect(&server, |options| options.timeout = Duration::from_millis(300)).unwrap();
        for fault in [
            Fault::Malformed,
            Fault::Short,
            Fault::Long,
            Fault::Null,
            Fault::Nan,
            Fault::Positive,
            Fault::Hang,
            Fault::Moved("http://localhost:1/elsewhere".into()),
            Fault::Status(403),
        ] {
            server.behave(|behaviour| behaviour.fault = Some(fault.clone()));
            let error = score(&model);
            let expected = match fault {
                Fault::Malformed => "in what should be JSON",
                Fault::Short if kind == Kind::LlamaCpp => "expected a list of tokens in",
                Fault::Short | Fault::Long => "expected",
                Fault::Null | Fault::Nan => "is not a number",
                Fault::Positive => "expected a log-probability in",
                Fault::Hang => "did not answer within 0.3 s",
                Fault::Moved(_) => "redirects to http://localhost:1/elsewhere, which is not followed",
                Fault::Status(_) => "answered with status 403: no",
            };
            assert!(error.message.contains(expected) && error.message.contains(&server.url()), "{kind:?}: {error}");
            assert_eq!(error.not_a_number, matches!(fault, Fault::Null | Fault::Nan), "{kind:?} {fault:?}");
        }
        server.behave(|behaviour| behaviour.fault = Some(Fault::Long));
        let error = model.generate(&[request("a", &[], Sampling::GREEDY, 1)], &nothing).unwrap_err();
        assert!(error.message.contains("expected at most 12 new tokens, found 13"), "{kind:?}: {error}");
    }
}

#[test]
fn a_server_without_echo_is_refused_for_scores_only() {
    let server = FakeServer::start(Kind::OpenAi).unwrap();
    let model = connect(&server, |_| {}).unwrap();
    server.behave(|behaviour| behaviour.fault = Some(Fault::Status(400)));
    let error = model.loglikelihoods(&QUESTIONS, &nothing).unwrap_err();
    assert!(error.message.contains("gives no log-probabilities of prompts (status 400: no)"), "{error}");
}

#[test]
fn a_busy_server_is_asked_again() {
    let server = FakeServer::start(Kind::Sglang).unwrap();
    let model = connect(&server, |_| {}).unwrap();
    server.behave(|behaviour| behaviour.busy = 4);
    server.take_requests();
    model.loglikelihoods(&QUESTIONS[..1], &nothing).unwrap();
    assert_eq!(server.take_requests().len(), 5);
    server.behave(|behaviour| behaviour.busy = 5);
    let error = model.loglikelihoods(&QUESTIONS[..1], &nothing).unwrap_err();
    assert!(error.message.ends_with("/generate answered with status 500: out of memory"), "{error}");
    assert_eq!(server.take_requests().len(), 5);
}

#[test]
fn cancelling_ends_the_work() {
    let server = FakeServer::start(Kind::Vllm).unwrap();
    let flag = Arc::new(AtomicBool::new(false));
    let mut options = options();
    options.cancel = CancelToken::from_flag(Arc::clone(&flag));
    // A server that is busy for long.
    options.first_wait = Duration::from_secs(60);
    let model = HttpModel::connect(directory(), &server.url(), &options).unwrap();
    server.behave(|behaviour| behaviour.busy = 9);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            flag.store(true, Ordering::Relaxed);
        });
        assert_eq!(model.loglikelihoods(&QUESTIONS, &nothing).unwrap_err().message, "cancelled");
    });
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_server_with_another_model_is_refused() {
    let check =
        |kind: Kind, behave: &dyn Fn(&mut server::Behaviour), change: &dyn Fn(&mut ServerOptions), expected: &str| {
            let server = FakeServer::start(kind).unwrap();
            server.behave(|behaviour| behave(behaviour));
            match connect(&server, |options| change(options)) {
                Ok(_) => assert_eq!(expected, "", "{kind:?} is accepted"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!expected.is_empty() && error.contains(expected), "{kind:?}: {error}");
                }
            }
        };
    let (none, plain) = (|_: &mut server::Behaviour| {}, |_: &mut ServerOptions| {});
    let short = |behaviour: &mut server::Behaviour| behaviour.max_length = Some(128);
    let length =
        "the maximum length is 128 there and 256 in the directory; --server-max-length 128 cuts what is longer";
    check(Kind::Vllm, &short, &plain, length);
    check(Kind::LlamaCpp, &short, &plain, length);
    check(Kind::Sglang, &short, &|options| options.max_length = Some(128), "");
    check(Kind::Sglang, &short, &|options| options.max_length = Some(129), "takes 128 tokens, fewer than the 129");
    let long = |behaviour: &mut server::Behaviour| behaviour.max_length = Some(512);
    check(Kind::Vllm, &long, &plain, "the maximum length is 512 there and 256 in the directory");
    check(Kind::LlamaCpp, &long, &plain, "");
    let size = "the size of the vocabulary is 500 there and 512 in the directory";
    check(Kind::LlamaCpp, &|behaviour| behaviour.vocabulary = Some(500), &plain, size);
    let tokens = |behaviour: &mut server::Behaviour| behaviour.tokens = Some(vec![5, 6]);
    check(Kind::Vllm, &tokens, &plain, "a token of the same text is 5 at place 0 of 2 there and");
    check(Kind::OpenAi, &tokens, &plain, "");
    let two = |behaviour: &mut server::Behaviour| behaviour.models = Some(vec!["a".into(), "b".into()]);
    check(Kind::Vllm, &two, &plain, "has the models a, b; choose one with --server-model");
    check(Kind::Vllm, &two, &|options| options.model = Some("b".into()), "");
    check(Kind::Vllm, &two, &|options| options.model = Some("c".into()), "has the models a, b; `c` is none of them");
    check(
        Kind::Vllm,
        &|behaviour| behaviour.token = Some("x".into()),
        &plain,
        "answered with status 401: who are you?",
    );
    check(Kind::Vllm, &none, &plain, "");
}

#[test]
fn the_same_tokenizer_is_accepted() {
    let server = FakeServer::start(Kind::LlamaCpp).unwrap();
    server.behave(|behaviour| behaviour.tokens = Some(vec![1]));
    let refused = connect(&server, |_| {}).unwrap_err();
    assert!(matches!(refused, ServerError::Mismatch { .. }), "{refused}");
    let asked = server.take_requests().into_iter().find(|request| request.path == "/tokenize").unwrap();
    let asked: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
    let tokens = Encoder::new(256).encode(asked["content"].as_str().unwrap(), false).unwrap();
    server.behave(|behaviour| behaviour.tokens = Some(tokens));
    connect(&server, |_| {}).unwrap();
}

#[test]
fn a_server_that_is_not_there_is_an_error_at_once() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut options = options();
    options.first_wait = Duration::from_secs(60);
    let error = HttpModel::connect(directory(), &url, &options).unwrap_err();
    assert!(matches!(error, ServerError::Network { .. }), "{error}");
    let error = HttpModel::connect("no/such/model", &url, &options).unwrap_err();
    assert!(error.to_string().contains("no/such/model: expected a directory with config.json"), "{error}");
}

#[test]
fn no_weights_are_needed() {
    let server = FakeServer::start(Kind::Vllm).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(directory().join(name), copy.path().join(name)).unwrap();
    }
    let model = HttpModel::connect(copy.path(), &server.url(), &options()).unwrap();
    assert_eq!(model.loglikelihoods(&QUESTIONS, &nothing).unwrap().len(), QUESTIONS.len());
}
