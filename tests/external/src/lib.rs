//! An operator from outside of the workspace, on `glue-merge` alone.

pub mod median;

#[cfg(test)]
mod tests {
    use crate::median;
    use glue_merge::{Conformance, MergeError, Registry, check_operator, merge_slices};

    #[test]
    fn it_keeps_the_contract() {
        check_operator(&median::DEF);
        Conformance::new(&median::DEF).symmetric().check();
    }

    #[test]
    fn it_merges_beside_the_built_in_operators() -> Result<(), MergeError> {
        let registry = Registry::builtin().with(&[&median::DEF]);
        let median = registry.operator("median", None)?;
        let params = median.params(&[], &[vec![], vec![]])?;
        let merged = merge_slices(&median, &params, &[3], None, &[&[1.0, 5.0, -2.0], &[2.0, 1.0, -4.0]])?;
        assert_eq!(merged, [1.5, 3.0, -3.0]);
        assert!(registry.operator("ties", None).is_ok());
        Ok(())
    }

    #[test]
    fn of_an_odd_number_it_is_the_middle() -> Result<(), MergeError> {
        let registry = Registry::builtin().with(&[&median::DEF]);
        let median = registry.operator("median", None)?;
        let params = median.params(&[], &[vec![], vec![], vec![]])?;
        let inputs: [&[f32]; 3] = [&[1.0, 5.0], &[100.0, 1.0], &[2.0, -7.0]];
        assert_eq!(merge_slices(&median, &params, &[2], None, &inputs)?, [2.0, 1.0]);
        Ok(())
    }
}
