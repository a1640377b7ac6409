//! Whether experts have the prompts that their gates are made from, and taking in those that come from elsewhere.

use crate::config::{Expert, MixConfig};
use crate::error::MixError;
use crate::plan::{MixPlan, Prompts};
use std::collections::BTreeMap;

impl MixConfig {
    /// The numbers of the experts that have no positive prompts though gates are made from them; none where gates are
    /// random.
    pub fn without_prompts(&self) -> Vec<usize> {
        let lacks = |(number, expert): (usize, &Expert)| expert.positive_prompts.is_empty().then_some(number);
        match self.gate_mode.needs_prompts() {
            true => self.experts.iter().enumerate().filter_map(lacks).collect(),
            false => Vec::new(),
        }
    }

    /// Whether that is so of the shared expert; false without one.
    pub fn shared_without_prompts(&self) -> bool {
        self.gate_mode.needs_prompts() && self.shared_experts.iter().any(|expert| expert.positive_prompts.is_empty())
    }

    /// For each task or skill that the description gives to an expert, the expert's name.
    pub fn experts_of_skills(&self) -> BTreeMap<String, String> {
        let of = |expert: &Expert| -> Vec<(String, String)> {
            expert.skills.iter().map(|skill| (skill.clone(), expert.name.clone())).collect()
        };
        self.experts.iter().flat_map(of).collect()
    }

    /// Prompts where the mode needs them, unless tasks are to give them, and not the same for all experts.
    pub(crate) fn check_prompts(&self) -> Result<(), MixError> {
        let conflict = |at, key, why: String| Err(MixError::Conflict { place: self.place(at), key, why });
        if !self.tasks.is_empty() && !self.gate_mode.needs_prompts() {
            let (place, why) = (self.place_of("tasks"), format!("means nothing with `gate_mode: {}`", self.gate_mode));
            return Err(MixError::Conflict { place, key: "tasks", why });
        }
        for (number, expert) in self.experts.iter().chain(&self.shared_experts).enumerate() {
            let Some(skill) = expert.skills.first() else { continue };
            if self.tasks.is_empty() {
                return conflict(expert.at, "skills", "mean nothing without `tasks`, whose items have them".into());
            }
            if number >= self.experts.len() {
                let why = format!("hold `{skill}`, but the shared expert is for all tasks");
                return conflict(expert.at, "skills", why);
            }
            let known = self.experts[..number].iter().flat_map(|other| &other.skills);
            if let Some(twice) = known.into_iter().find(|known| expert.skills.contains(known)) {
                return conflict(expert.at, "skills", format!("hold `{twice}`, which an expert before has already"));
            }
        }
        if !self.gate_mode.needs_prompts() {
            return Ok(());
        }
        if self.tasks.is_empty() {
            let mut all = self.experts.iter().chain(&self.shared_experts);
            if let Some(bare) = all.find(|expert| expert.positive_prompts.is_empty()) {
                let (place, expert) = (self.place(bare.at), bare.model.display().to_string());
                return Err(MixError::NoPrompts { place, expert, mode: self.gate_mode });
            }
        }
        let prompts = |expert: &Expert| (expert.positive_prompts.clone(), expert.negative_prompts.clone());
        let first = self.experts.first().map(prompts);
        if self.experts.len() > 1
            && self.without_prompts().is_empty()
            && self.experts.iter().all(|expert| Some(prompts(expert)) == first)
        {
            return Err(MixError::SamePrompts { place: self.place_of("experts") });
        }
        Ok(())
    }
}

impl MixPlan {
    /// Gives expert `expert` prompts that the description does not have, made of the items of tasks, and notes in the
    /// manifest that it was so. Negative prompts of the description stay. An expert that there is not changes nothing.
    pub fn set_prompts(&mut self, expert: usize, prompts: Prompts) {
        if let Some(expert) = self.config.experts.get_mut(expert) {
            take(expert, prompts);
            self.from_tasks.push(expert.name.clone());
        }
    }

    /// The same for the shared expert, if there is one.
    pub fn set_shared_prompts(&mut self, prompts: Prompts) {
        if let Some(expert) = self.config.shared_experts.first_mut() {
            take(expert, prompts);
        }
    }
}

fn take(expert: &mut Expert, prompts: Prompts) {
    expert.positive_prompts = prompts.positive;
    if expert.negative_prompts.is_empty() {
        expert.negative_prompts = prompts.negative;
    }
}
