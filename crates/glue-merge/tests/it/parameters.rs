//! What a user reads when settings or operands are refused.

use glue_merge::{Merge, Registry, Setting};

type Given<'a> = &'a [(&'a str, Setting)];

/// The message when the operator is given `settings` for all inputs and `own` for each.
fn refused(operator: &str, settings: Given<'_>, own: &[Given<'_>]) -> String {
    let operator = Registry::builtin().operator(operator, None).unwrap();
    let all = operator.params(own.len()).set_all(settings.to_vec());
    let params = own.iter().enumerate().fold(all, |params, (i, own)| params.input(i, own.to_vec()));
    params.check().unwrap_err().to_string()
}

fn number(x: f64) -> Setting {
    x.into()
}

#[test]
fn settings_are_refused_by_name() {
    assert_eq!(
        refused("ties", &[("desity", number(0.5))], &[&[]]),
        "ties has no parameter `desity`; did you mean `density`?"
    );
    assert_eq!(refused("slerp", &[("gamma_ray", number(0.5))], &[&[]]), "slerp has no parameter `gamma_ray`; it has t");
    assert_eq!(
        refused("arcee_fusion", &[("t", number(0.5))], &[&[]]),
        "arcee_fusion has no parameter `t`; it has none"
    );
    assert_eq!(
        refused("ties", &[], &[&[("weight", number(1.0))], &[]]),
        "ties needs `weight` for every model; it is missing for model 2"
    );
    assert_eq!(refused("nearswap", &[], &[&[]]), "nearswap needs the parameter `t`");
    assert_eq!(
        refused("ties", &[], &[&[("weight", number(1.0)), ("lambda", number(1.0))]]),
        "ties: `lambda` holds for the whole merge and cannot differ between models"
    );
}

#[test]
fn values_are_refused_with_what_is_allowed() {
    let check = |operator, key, setting: Setting, expected: &str| {
        let settings = [("weight", number(1.0)), (key, setting)];
        assert_eq!(refused(operator, &settings, &[&[]]), expected);
    };
    check("ties", "density", number(0.0), "ties: `density` must be a number above 0 and at most 1, found 0");
    check("ties", "density", number(1.5), "ties: `density` must be a number above 0 and at most 1, found 1.5");
    check("ties", "lambda", number(f64::NAN), "ties: `lambda` must be a finite number, found NaN");
    check("ties", "normalize", number(0.5), "ties: `normalize` must be true or false, found 0.5");
    check("breadcrumbs", "gamma", number(-0.1), "breadcrumbs: `gamma` must be a number from 0 to 1, found -0.1");
    check(
        "dare_ties",
        "rescale",
        "l2".into(),
        "dare_ties: `rescale` must be one of l1, inverse, none; true means l1; false means none, found `l2`",
    );
    let steps = [("max_iter", number(2.5))];
    assert_eq!(
        refused("karcher", &steps, &[&[]]),
        "karcher: `max_iter` must be a whole number of at least 1, found 2.5"
    );
}

#[test]
fn values_for_all_stand_in_where_an_input_has_none() {
    let operator = Registry::builtin().operator("linear", None).unwrap();
    let params = operator.params(2).input(0, [("weight", 3.0)]).set("weight", 1.0).check().unwrap();
    assert_eq!(params.input_numbers("weight"), [3.0, 1.0]);
    assert!(params.flag("normalize"));
    let rescale = |setting: Setting| {
        let operator = Registry::builtin().operator("dare_linear", None).unwrap();
        operator.params(1).set("weight", 1.0).set("rescale", setting).check().unwrap().word("rescale")
    };
    assert_eq!(rescale(true.into()), "l1");
    assert_eq!(rescale(false.into()), "none");
    assert_eq!(rescale("inverse".into()), "inverse");
}

#[test]
fn what_is_set_twice_has_the_later_value() {
    let operator = Registry::builtin().operator("ties", None).unwrap();
    let params = operator.params(2).set("weight", 1.0).set("weight", 0.5).input(1, [("weight", 2.0)]);
    assert_eq!(params.clone().check().unwrap().input_numbers("weight"), [0.5, 2.0]);
    assert_eq!(params.each("weight", [3.0, 4.0]).check().unwrap().input_numbers("weight"), [3.0, 4.0]);
}

#[test]
fn numbers_of_every_type_are_settings() {
    for setting in [Setting::from(2.0_f64), 2.0_f32.into(), 2.into(), 2_i64.into(), 2_usize.into()] {
        assert_eq!(setting, Setting::Number(2.0));
    }
    assert_eq!(Setting::from("l1".to_string()), Setting::Text("l1".into()));
}

#[test]
fn operands_are_refused_in_words() {
    let check = |operator, inputs: usize, base: Option<&[f32]>, expected: &str| {
        let operator = Registry::builtin().operator(operator, None).unwrap();
        let required = ["weight", "t"].iter().filter(|key| operator.specs().any(|s| s.name == **key));
        let params = operator.params(inputs).set_all(required.map(|key| (*key, 0.5))).check().unwrap();
        let merge = Merge::new(&operator, &params).inputs(vec![&[1.0_f32]; inputs]);
        let refused = match base {
            Some(base) => merge.base(base).run(),
            None => merge.run(),
        };
        assert_eq!(refused.unwrap_err().to_string(), expected);
    };
    let base = Some(&[0.0_f32][..]);
    check("ties", 2, None, "ties needs a base model, none is given");
    check("slerp", 2, base, "slerp merges exactly 1 model besides the base, found 2");
    check("nuslerp", 3, None, "nuslerp merges exactly 2 models, found 3");
    check("model_stock", 1, base, "model_stock merges 2 or more models besides the base, found 1");
}
