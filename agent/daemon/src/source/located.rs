//! Where in a document a field is.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A document's shape with the place of every value; the values themselves are not kept.
enum Tree {
    Map(Vec<(String, Spanned<Tree>)>),
    Sequence(Vec<Spanned<Tree>>),
    Leaf,
}

/// The line, from 1, of a field like `spec.cidrs[1]`, or of the innermost part of its path that is there.
pub(super) fn line_of(text: &str, field: &str) -> Option<u64> {
    let tree: Spanned<Tree> = serde_saphyr::from_str(text).ok()?;
    let mut node = &tree;
    let mut found = None;
    for step in field.split(['.', '[']).map(|step| step.trim_end_matches(']')) {
        let next = match &node.value {
            Tree::Map(fields) => fields.iter().find(|(name, _)| name == step).map(|(_, value)| value),
            Tree::Sequence(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            Tree::Leaf => None,
        };
        let Some(next) = next else { break };
        found = Some(next.referenced.line());
        node = next;
    }
    found.filter(|line| *line > 0)
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Tree::Map(fields))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Tree, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    items.push(item);
                }
                Ok(Tree::Sequence(items))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }

            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }
        }
        deserializer.deserialize_any(Shape)
    }
}
