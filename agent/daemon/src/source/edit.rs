//! Changes one field of one document in place: comments, order and everything else stay as the operator wrote them.

use std::path::Path;

use turnpike_model::pool::PoolState;
use turnpike_model::resource::{Kind, Resource, ResourceId};

use super::yaml::{self, Document};

/// Why a text cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EditError {
    /// Not in this file.
    #[error("the file holds no IPPool/{0}")]
    Absent(String),
    /// Written in a way that is not understood well enough to change it.
    #[error("the document is written in a way that cannot be changed safely; set spec.state by hand")]
    NotSafe,
}

/// The text with the pool's `spec.state` set.
pub(super) fn set_pool_state(
    file: &Path,
    text: &str,
    pool: &str,
    state: PoolState,
) -> Result<String, EditError> {
    let document = find(file, text, pool).ok_or_else(|| EditError::Absent(pool.to_owned()))?;
    let word = format!("{state:?}");
    let line_at = |field: &str| usize::try_from(document.line_of(field)).unwrap_or_default();
    let changed = replaced(text, line_at("spec.state"), &word).into_iter().chain(inserted(
        text,
        line_at("spec.cidr"),
        &word,
    ));
    let mut good = changed.filter(|changed| differs_only_there(file, text, changed, pool, state));
    good.next().ok_or(EditError::NotSafe)
}

fn find(file: &Path, text: &str, pool: &str) -> Option<Document> {
    let wanted = ResourceId { kind: Kind::IpPool, name: pool.to_owned() };
    yaml::split(file, text).into_iter().find(|document| document.parse().is_ok_and(|(id, _)| id == wanted))
}

/// The line with its state exchanged.
fn replaced(text: &str, number: usize, word: &str) -> Option<String> {
    const KEY: &str = "state:";
    let line = text.lines().nth(number.checked_sub(1)?)?;
    let (before, rest) = line.split_once(KEY)?;
    let value = rest.trim_start();
    let end = value.find(|c: char| c.is_whitespace() || c == ',' || c == '}').unwrap_or(value.len());
    let behind = value.get(end..)?;
    Some(with_line(text, number, &[format!("{before}{KEY} {word}{behind}")]))
}

/// A state beside the cidr, which every pool has.
fn inserted(text: &str, number: usize, word: &str) -> Option<String> {
    const KEY: &str = "cidr:";
    let line = text.lines().nth(number.checked_sub(1)?)?;
    let (before, rest) = line.split_once(KEY)?;
    if before.trim().is_empty() {
        return Some(with_line(text, number, &[line.to_owned(), format!("{before}state: {word}")]));
    }
    Some(with_line(text, number, &[format!("{before}state: {word}, {KEY}{rest}")]))
}

fn with_line(text: &str, number: usize, instead: &[String]) -> String {
    let mut changed = String::with_capacity(text.len() + 32);
    for (index, line) in text.lines().enumerate() {
        if index + 1 == number {
            instead.iter().for_each(|line| changed.extend([line.as_str(), "\n"]));
        } else {
            changed.extend([line, "\n"]);
        }
    }
    changed
}

/// The changed text says the same as the old one, but for this one state.
fn differs_only_there(file: &Path, old: &str, new: &str, pool: &str, state: PoolState) -> bool {
    let parsed = |text: &str| -> Option<Vec<(ResourceId, Resource)>> {
        yaml::split(file, text).iter().map(|document| document.parse().ok()).collect()
    };
    let (Some(mut old), Some(new)) = (parsed(old), parsed(new)) else { return false };
    for (id, resource) in &mut old {
        if let Resource::IpPool(object) = resource
            && id.name == pool
        {
            object.spec.state = state;
        }
    }
    old == new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(spec: &str, state: PoolState) -> Result<String, EditError> {
        let head = "# ours\napiVersion: turnpike.io/v1alpha1\nkind: IPPool\nmetadata: {name: p}\n";
        let tail = "---\napiVersion: turnpike.io/v1alpha1\nkind: IPPool\nmetadata: {name: q}\nspec: {cidr: 10.9.0.0/16}\n";
        let changed = set_pool_state(Path::new("x"), &format!("{head}{spec}{tail}"), "p", state)?;
        let middle = changed.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail));
        Ok(middle.expect("head and tail stay as they are").to_owned())
    }

    #[test]
    fn a_state_is_exchanged_or_added_in_block_and_flow_style() {
        for (before, after) in [
            ("spec:\n  cidr: 10.1.0.0/16\n", "spec:\n  cidr: 10.1.0.0/16\n  state: Draining\n"),
            (
                "spec:\n  state: Active # new pods\n  cidr: 10.1.0.0/16\n",
                "spec:\n  state: Draining # new pods\n  cidr: 10.1.0.0/16\n",
            ),
            ("spec: { cidr: 10.1.0.0/16 }\n", "spec: { state: Draining, cidr: 10.1.0.0/16 }\n"),
            (
                "spec: {cidr: 10.1.0.0/16, state: \"Active\"}\n",
                "spec: {cidr: 10.1.0.0/16, state: Draining}\n",
            ),
        ] {
            assert_eq!(edited(before, PoolState::Draining).as_deref(), Ok(after));
        }
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        let odd = "spec:\n  ? cidr\n  : 10.1.0.0/16\n";
        assert_eq!(edited(odd, PoolState::Draining), Err(EditError::NotSafe));
        let absent = set_pool_state(Path::new("x"), "", "p", PoolState::Active);
        assert_eq!(absent, Err(EditError::Absent("p".to_owned())));
    }
}
