//! Who may see which documents.
//!
//! A document says in its metadata, under [`VISIBLE_TO`], which groups may see it; one that says nothing is seen by
//! everybody who may ask at all. A caller's groups are its [`Sight`]. It narrows every search as a filter like any other,
//! so that each store obeys it before it ranks, and what leaves a store is compared with it once more.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::filter::{Filter, Test};
use crate::documents::event::Metadata;
use crate::documents::excerpt;

/// The key of the metadata that names the groups.
pub const VISIBLE_TO: &str = "visible_to";
/// The same as a field of filters.
const FIELD: &str = "metadata.visible_to";
/// Most groups of a document.
pub const MAX_GROUPS: usize = 100;
/// Most bytes in the name of a group.
pub const MAX_GROUP_BYTES: usize = 128;

/// What a caller sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Sight {
    /// Every document.
    All,
    /// What is for everybody, and what is for one of these groups.
    Groups(BTreeSet<String>),
}

impl Sight {
    /// Whether a document with this metadata is seen.
    pub fn sees(&self, metadata: &Metadata) -> bool {
        let Self::Groups(groups) = self else { return true };
        let among = |value: &Value| value.as_str().is_some_and(|group| groups.contains(group));
        match metadata.get(VISIBLE_TO) {
            None | Some(Value::Null) => true,
            Some(Value::Array(names)) => names.iter().any(among),
            Some(name) => among(name),
        }
    }

    /// A filter that lets through what it did, as far as it is seen.
    pub fn narrow(&self, filter: Option<Filter>) -> Option<Filter> {
        let Self::Groups(groups) = self else { return filter };
        let field = |test| Filter::Field(FIELD.to_owned(), test);
        let groups: Vec<Value> = groups.iter().map(|group| group.as_str().into()).collect();
        let seen = Filter::Any(vec![field(Test::Exists(false)), field(Test::In(groups))]);
        Some(match filter {
            None => seen,
            Some(filter) => Filter::All(vec![filter, seen]),
        })
    }
}

/// Checks the name of a group: 1 to 128 bytes, without commas, control characters, or white space at either end.
///
/// # Errors
/// A sentence that names the rule.
pub fn validate_group(name: &str) -> Result<(), String> {
    let plain = !name.chars().any(|c| c == ',' || c.is_control()) && name.trim() == name;
    if name.is_empty() || name.len() > MAX_GROUP_BYTES || !plain {
        return Err(format!(
            "a group is named with 1 to {MAX_GROUP_BYTES} bytes, without commas, control characters, and white space at either end, and {:?} is not",
            excerpt(name)
        ));
    }
    Ok(())
}

/// Checks what metadata says of who may see the document: nothing, a group, or a list of groups. An empty list is for
/// nobody but those who see everything.
///
/// # Errors
/// A sentence that names the rule.
pub fn validate_visibility(metadata: &Metadata) -> Result<(), String> {
    let names = match metadata.get(VISIBLE_TO) {
        None => return Ok(()),
        Some(Value::Array(names)) => names.as_slice(),
        Some(name) => std::slice::from_ref(name),
    };
    if names.len() > MAX_GROUPS {
        return Err(format!("`{VISIBLE_TO}` names at most {MAX_GROUPS} groups, and this has {}", names.len()));
    }
    names.iter().try_for_each(|name| match name {
        Value::String(name) => validate_group(name),
        other => Err(format!("`{VISIBLE_TO}` names groups, and {other} is no text")),
    })
}

/// Metadata with the groups that were named beside it.
///
/// # Errors
/// Where both name some.
pub fn with_groups(mut metadata: Metadata, groups: Option<Vec<String>>) -> Result<Metadata, String> {
    let Some(groups) = groups else { return Ok(metadata) };
    if metadata.insert(VISIBLE_TO.to_owned(), groups.into()).is_some() {
        return Err(format!("`{VISIBLE_TO}` is given twice: beside the metadata, and in it"));
    }
    Ok(metadata)
}

/// The groups of a list with commas; `None` where there is no list.
pub fn groups_of(list: Option<&str>) -> Option<Vec<String>> {
    let groups = |list: &str| list.split(',').map(|group| group.trim().to_owned()).filter(|g| !g.is_empty()).collect();
    list.map(groups)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::retrieval::filter::Fields;

    struct Document(Metadata);

    impl Fields for Document {
        fn field(&self, name: &str) -> Option<Cow<'_, Value>> {
            self.0.get(name.strip_prefix("metadata.")?).map(Cow::Borrowed)
        }
    }

    fn metadata(visible_to: Value) -> Metadata {
        Metadata::from([(VISIBLE_TO.to_owned(), visible_to)])
    }

    fn sight(groups: &[&str]) -> Sight {
        Sight::Groups(groups.iter().map(|group| (*group).to_owned()).collect())
    }

    #[test]
    fn a_document_without_groups_is_for_everybody_and_one_with_an_empty_list_for_nobody() {
        assert!(sight(&[]).sees(&Metadata::new()));
        assert!(!sight(&["hr"]).sees(&metadata(json!([]))));
        assert!(Sight::All.sees(&metadata(json!([]))));
        assert!(sight(&["hr"]).sees(&metadata(json!(["it", "hr"]))) && sight(&["hr"]).sees(&metadata(json!("hr"))));
        assert!(!sight(&["it"]).sees(&metadata(json!(["hr"]))) && !sight(&["it"]).sees(&metadata(json!(7))));
    }

    #[test]
    fn what_names_no_groups_is_refused() {
        for wrong in [json!(null), json!(1), json!([1]), json!([""]), json!("a,b"), json!([" a"]), json!("a\nb")] {
            assert!(validate_visibility(&metadata(wrong.clone())).is_err(), "{wrong}");
        }
        for right in [json!([]), json!("hr"), json!(["hr", "user:ann@example.com"])] {
            assert_eq!(validate_visibility(&metadata(right)), Ok(()));
        }
        assert!(with_groups(metadata(json!("hr")), Some(vec![])).is_err());
    }

    proptest! {
        /// The filter that stores obey, and the comparison of what they give, mean the same.
        #[test]
        fn the_filter_lets_through_what_is_seen(
            groups in proptest::collection::btree_set("[abc]", 0..3),
            visible_to in proptest::option::of(prop_oneof![
                proptest::collection::vec("[abcd]", 0..3).prop_map(|names| json!(names)),
                "[abcd]".prop_map(|name| json!(name)),
                Just(json!(1)),
                Just(json!(null)),
            ]),
        ) {
            let metadata = visible_to.map_or_else(Metadata::new, metadata);
            let sight = Sight::Groups(groups);
            let passes = sight.narrow(None).is_none_or(|filter| filter.matches(&Document(metadata.clone())));
            prop_assert_eq!(passes, sight.sees(&metadata));
        }
    }
}
