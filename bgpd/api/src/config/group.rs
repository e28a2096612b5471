//! Peer groups and listen ranges, written out before the types see them.
//!
//! `[peer_group.NAME]` holds fields of a peer. A `[[peer]]` or `[[listen_range]]` with `group = "NAME"` has them too,
//! where it does not say otherwise itself. Values keep their place in the file, so a mistake in a group is named with
//! the group's line.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Peer;

/// The key of the table of groups.
const GROUPS: &str = "peer_group";
/// What a listen range says of itself; everything else is about the peers that come out of it.
const OF_THE_RANGE: [&str; 2] = ["prefix", "limit"];

/// What is wrong, and where in the text.
pub(super) struct Fault {
    pub(super) at: Option<Range<usize>>,
    pub(super) field: String,
    pub(super) message: String,
    pub(super) remedy: Option<String>,
}

type Table<'i> = DeTable<'i>;
type Groups<'i> = BTreeMap<String, Table<'i>>;

/// Gives members what their group says, and takes the groups out.
pub(super) fn expand(tree: &mut Table<'_>) -> Result<(), Fault> {
    let groups = take_groups(tree)?;
    for (list, is_range) in [("peer", false), ("listen_range", true)] {
        let Some(DeValue::Array(members)) = tree.get_mut(list).map(Spanned::get_mut) else { continue };
        for (index, member) in members.iter_mut().enumerate() {
            let span = member.span();
            let DeValue::Table(member) = member.get_mut() else { continue };
            join(member, &groups).map_err(|fault| fault.below(&format!("{list}[{index}]")))?;
            if is_range {
                become_range(member, &span).map_err(|fault| fault.below(&format!("{list}[{index}]")))?;
            }
        }
    }
    Ok(())
}

fn take_groups<'i>(tree: &mut Table<'i>) -> Result<Groups<'i>, Fault> {
    let mut groups = Groups::new();
    let Some(value) = tree.remove(GROUPS) else { return Ok(groups) };
    let span = value.span();
    let DeValue::Table(tables) = value.into_inner() else {
        return Err(fault(span, GROUPS, "it is no table", "write [peer_group.NAME]"));
    };
    for (name, value) in tables {
        let (name, span) = (name.into_inner().into_owned(), value.span());
        let field = format!("{GROUPS}.{name}");
        let DeValue::Table(group) = value.into_inner() else {
            return Err(fault(span, field, "it is no table", "write [peer_group.NAME]"));
        };
        for key in ["name", "address", "group"] {
            if let Some((key, _)) = group.get_key_value(key) {
                let message = "members of a group have this of their own";
                return Err(fault(key.span(), format!("{field}.{}", key.get_ref()), message, "remove it"));
            }
        }
        check_group(&group, &span).map_err(|fault| fault.below(&field))?;
        groups.insert(name, group);
    }
    Ok(groups)
}

/// Fields of a group are those of a peer, whether or not anybody is its member.
fn check_group(group: &Table<'_>, span: &Range<usize>) -> Result<(), Fault> {
    let mut whole = group.clone();
    put(&mut whole, "address", "0.0.0.0", span);
    if !whole.contains_key("remote_as") {
        put(&mut whole, "remote_as", "internal", span);
    }
    let whole = toml::de::Deserializer::from(Spanned::new(span.clone(), whole));
    match serde_path_to_error::deserialize::<_, Peer>(whole) {
        Ok(_) => Ok(()),
        Err(error) => {
            let field = error.path().to_string();
            let field = if field == "." { String::new() } else { field };
            let message = error.inner().message().to_owned();
            Err(Fault { at: error.inner().span(), field, remedy: super::load::remedy(&message), message })
        }
    }
}

fn join<'i>(member: &mut Table<'i>, groups: &Groups<'i>) -> Result<(), Fault> {
    let Some(value) = member.remove("group") else { return Ok(()) };
    let Some(name) = value.get_ref().as_str() else {
        return Err(fault(value.span(), "group", "it is no text", "give the name of a [peer_group.NAME]"));
    };
    let Some(group) = groups.get(name) else {
        let known: Vec<&str> = groups.keys().map(String::as_str).collect();
        let remedy = match known.as_slice() {
            [] => format!("write [peer_group.{name}]"),
            known => format!("there are: {}", known.join(", ")),
        };
        return Err(fault(value.span(), "group", format!("there is no peer group `{name}`"), remedy));
    };
    for (key, value) in group {
        if !member.contains_key(key.get_ref().as_ref()) {
            member.insert(key.clone(), value.clone());
        }
    }
    Ok(())
}

/// Splits a listen range into what it says of itself and the template of its peers.
fn become_range(member: &mut Table<'_>, span: &Range<usize>) -> Result<(), Fault> {
    for key in ["address", "interface"] {
        if let Some((key, _)) = member.get_key_value(key) {
            let message = "a listen range has a prefix, and its peers come out of that";
            return Err(fault(key.span(), key.get_ref().as_ref(), message, "remove it"));
        }
    }
    if member.contains_key("peer") {
        return Ok(());
    }
    let (own, mut template): (Table<'_>, Table<'_>) = std::mem::take(member)
        .into_iter()
        .partition(|(key, _)| OF_THE_RANGE.contains(&key.get_ref().as_ref()));
    *member = own;
    // Nobody ever connects to it: an address of the right family, for what depends on the family.
    let prefix = member.get("prefix").and_then(|prefix| prefix.get_ref().as_str()).unwrap_or_default();
    put(&mut template, "address", if prefix.contains(':') { "::" } else { "0.0.0.0" }, span);
    member.insert(key_at("peer", span), Spanned::new(span.clone(), DeValue::Table(template)));
    Ok(())
}

fn put(table: &mut Table<'_>, key: &'static str, value: &'static str, span: &Range<usize>) {
    let value = DeValue::String(Cow::Borrowed(value));
    table.insert(key_at(key, span), Spanned::new(span.clone(), value));
}

fn key_at(key: &'static str, span: &Range<usize>) -> Spanned<Cow<'static, str>> {
    Spanned::new(span.clone(), Cow::Borrowed(key))
}

fn fault(
    at: Range<usize>,
    field: impl Into<String>,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Fault {
    Fault { at: Some(at), field: field.into(), message: message.into(), remedy: Some(remedy.into()) }
}

impl Fault {
    fn below(mut self, place: &str) -> Self {
        self.field = if self.field.is_empty() { place.to_owned() } else { format!("{place}.{}", self.field) };
        self
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Problems, RemoteAs, parse};

    fn complaint(text: &str) -> String {
        let path = Path::new("bgpd.toml").to_owned();
        Problems::Mistakes { path, list: parse(text).unwrap_err() }.to_string()
    }

    #[test]
    fn members_have_what_their_group_says_unless_they_say_otherwise() {
        let config = parse(
            r#"
asn = 65001
[peer_group.nodes]
remote_as = "internal"
rr_client = true
hold_time = 9

[[peer]]
address = "10.1.1.11"
group = "nodes"

[[peer]]
address = "10.1.1.12"
group = "nodes"
hold_time = 30

[[listen_range]]
name = "rack"
prefix = "10.1.2.0/24"
limit = 40
group = "nodes"
"#,
        )
        .unwrap();
        let holds: Vec<u16> = config.peers.iter().map(|peer| peer.hold_time).collect();
        assert_eq!(holds, [9, 30]);
        assert!(config.peers.iter().all(|peer| peer.rr_client && peer.remote_as == RemoteAs::Internal));
        let [range] = config.listen_ranges.as_slice() else { panic!("{:?}", config.listen_ranges) };
        assert_eq!((range.prefix.to_string().as_str(), range.limit), ("10.1.2.0/24", 40));
        assert_eq!((range.peer.label().as_str(), range.peer.hold_time), ("rack", 9));
    }

    #[test]
    fn a_mistake_in_a_group_is_named_where_it_stands() {
        let group = "asn = 65001\n[peer_group.nodes]\nhold_tim = 9\n";
        assert!(
            complaint(group).starts_with("bgpd.toml:3: peer_group.nodes.hold_tim: unknown field `hold_tim`"),
            "{}",
            complaint(group)
        );
        let unknown = "[peer_group.nodes]\n[[peer]]\naddress = \"10.1.1.1\"\ngroup = \"node\"\n";
        assert_eq!(
            complaint(unknown),
            "bgpd.toml:4: peer[0].group: there is no peer group `node`; there are: nodes"
        );
        let own = "[peer_group.nodes]\naddress = \"10.1.1.1\"\n";
        assert!(complaint(own).starts_with("bgpd.toml:2: peer_group.nodes.address: "), "{}", complaint(own));
    }

    #[test]
    fn what_a_listen_range_cannot_have_is_refused() {
        let range = |rest: &str| {
            format!(
                "asn = 65001\n[[listen_range]]\nprefix = \"10.1.2.0/24\"\nremote_as = \"internal\"\n{rest}\n"
            )
        };
        assert!(parse(&range("")).is_ok());
        let local = range("bfd = {}").replace("10.1.2.0/24", "fe80::/10");
        assert!(complaint(&local).contains("listen_range[0].bfd: "), "{}", complaint(&local));
        assert!(parse(&range("bfd = {}")).is_ok());
        for (line, word) in [
            ("address = \"10.1.1.1\"", "address"),
            ("bfd = { strict = true }", "bfd.strict"),
            ("limit = 0", "limit"),
            ("import = \"none\"", "none"),
            ("hold_time = 2", "hold_time"),
        ] {
            let text = complaint(&range(line));
            assert!(text.starts_with("bgpd.toml:") && text.contains(word), "{line}: {text}");
        }
    }
}
