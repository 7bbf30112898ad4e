//! `[budgets]`: how much callers may ask for.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[budgets]`: what each caller may have by itself, and others than these for some. 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetsConfig {
    /// Requests that begin something, in a minute.
    #[garde(skip)]
    pub requests_per_minute: u64,
    /// Tokens of prompts and outputs, in a minute.
    #[garde(skip)]
    pub tokens_per_minute: u64,
    /// The same in a day, which begins at midnight UTC.
    #[garde(skip)]
    pub tokens_per_day: u64,
    /// Answers that are open at the same time.
    #[garde(skip)]
    pub streams: u64,
    #[garde(length(max = 1000), dive)]
    pub more: Vec<BudgetConfig>,
}

/// `[[budgets.more]]`: the budget of one caller, in place of the one that each has, or one that all callers of a
/// group have together, beside their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// `key:<id>`, `user:<subject>`, `group:<name>`, or `ip:<address>`.
    #[garde(custom(a_caller))]
    pub who: String,
    /// As `[budgets] requests_per_minute`.
    #[garde(skip)]
    pub requests_per_minute: u64,
    /// As `[budgets] tokens_per_minute`.
    #[garde(skip)]
    pub tokens_per_minute: u64,
    /// As `[budgets] tokens_per_day`.
    #[garde(skip)]
    pub tokens_per_day: u64,
    /// As `[budgets] streams`.
    #[garde(skip)]
    pub streams: u64,
}

fn a_caller(who: &str, _: &()) -> garde::Result {
    let named =
        ["key:", "user:", "group:", "ip:"].iter().any(|kind| who.strip_prefix(kind).is_some_and(|n| !n.is_empty()));
    if named {
        Ok(())
    } else {
        Err(garde::Error::new("must be key:<id>, user:<subject>, group:<name> or ip:<address>"))
    }
}
