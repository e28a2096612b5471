//! The node tree that a node's resources ask for, and each pod's class in it.

use std::collections::BTreeMap;

use turnpike_model::bandwidth::TreeSpec;
use turnpike_model::desired::{BitsPerSecond, NodeTree, TreeClass};
use turnpike_model::rate::Rate;
use turnpike_model::resource::{Kind, ResourceId, Resources};

use crate::node::{Node, selects};
use crate::validate::Issue;

/// The class of all pods where the resource names none.
const ONLY_CLASS: &str = "pods";
/// Numbers of classes: above those of the tree's own parts, below those that the kernel gives to others.
const NUMBERS: std::ops::Range<u64> = 0x100..0x6000;

/// The tree of the first `NodeBandwidth`, in order of names, that has one for this node.
#[must_use]
pub fn node_tree(resources: &Resources, node: &Node) -> Option<NodeTree> {
    trees(resources, node).next().map(|(name, spec)| tree(name, spec))
}

/// Others that have one, too, and are not in force.
pub(crate) fn tree_issues(resources: &Resources, node: &Node) -> Vec<Issue> {
    let mut trees = trees(resources, node);
    let Some((first, _)) = trees.next() else { return Vec::new() };
    trees
        .map(|(name, _)| Issue {
            resource: ResourceId { kind: Kind::NodeBandwidth, name: name.to_owned() },
            field: "spec.tree".to_owned(),
            message: format!("NodeBandwidth/{first} has a tree for node {}, too", node.name),
            remedy: format!("let one of them select this node; {first} is in force"),
        })
        .collect()
}

fn trees<'a>(resources: &'a Resources, node: &'a Node) -> impl Iterator<Item = (&'a str, &'a TreeSpec)> {
    resources
        .node_bandwidths
        .iter()
        .filter(|(_, spec)| selects(spec.node_selector.as_ref(), node))
        .filter_map(|(name, spec)| Some((name.as_str(), spec.tree.as_ref()?)))
}

fn tree(name: &str, spec: &TreeSpec) -> NodeTree {
    let mut classes = BTreeMap::new();
    for (class, share) in &spec.classes {
        let mut number = number(class);
        while classes.contains_key(&number) {
            number += 1;
        }
        let ceiling = share.ceiling.map(Rate::bits);
        let (name, guarantee) = (class.clone(), share.guarantee.bits());
        let namespaces = share.namespaces.clone();
        classes.insert(number, TreeClass { name, guarantee, ceiling, namespaces });
    }
    if classes.is_empty() {
        let guarantee = turnpike_model::rate::MIN;
        let (name, namespaces) = (ONLY_CLASS.to_owned(), Vec::new());
        classes.insert(number(ONLY_CLASS), TreeClass { name, guarantee, ceiling: None, namespaces });
    }
    NodeTree {
        source: name.to_owned(),
        uplinks: spec.uplinks.clone(),
        speed: spec.speed.map(Rate::bits),
        host: spec.host.guarantee.bits(),
        pods_ceiling: spec.pods.ceiling.map(Rate::bits),
        default_class: default_class(spec),
        classes,
    }
}

fn default_class(spec: &TreeSpec) -> String {
    let only = || spec.classes.keys().next().cloned();
    spec.default_class.clone().or_else(only).unwrap_or_else(|| ONLY_CLASS.to_owned())
}

/// A class's number follows from its name: another class that comes or goes moves no pod.
fn number(name: &str) -> u16 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let number = NUMBERS.start + (hash ^ (hash >> 32)) % (NUMBERS.end - NUMBERS.start);
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// The number of the class that a pod of a namespace gets: the one it asks for if the tree has it and grants it to the
/// namespace, else the default.
#[must_use]
pub fn class_of(tree: &NodeTree, asked: Option<&str>, namespace: &str) -> Option<u16> {
    let find = |name: &str| tree.classes.iter().find(|(_, class)| class.name == name);
    let granted = asked.and_then(find).filter(|(_, class)| grants(class, namespace));
    granted.or_else(|| find(&tree.default_class)).map(|(number, _)| *number)
}

/// Pods of the namespace may be in the class.
pub(crate) fn grants(class: &TreeClass, namespace: &str) -> bool {
    class.namespaces.is_empty() || class.namespaces.iter().any(|granted| granted == namespace)
}

/// What is wrong in a tree by itself: field, message, remedy.
pub(crate) fn mistakes(spec: &TreeSpec) -> Vec<(String, String, &'static str)> {
    let mut found = Vec::new();
    if spec.classes.len() > 1 && spec.default_class.is_none() {
        let message = "it is missing, and there is more than one class".to_owned();
        found.push((
            "spec.tree.defaultClass".to_owned(),
            message,
            "name the class of pods that ask for none",
        ));
    }
    if let Some(class) = &spec.default_class
        && !spec.classes.contains_key(class)
    {
        let message = format!("there is no class `{class}`");
        found.push(("spec.tree.defaultClass".to_owned(), message, "name one of spec.tree.classes"));
    }
    for (name, share) in &spec.classes {
        if let Some(ceiling) = share.ceiling
            && ceiling < share.guarantee
        {
            let message = format!("the ceiling {ceiling} is less than the guarantee {}", share.guarantee);
            found.push((
                format!("spec.tree.classes.{name}.ceiling"),
                message,
                "raise it, or lower the guarantee",
            ));
        }
    }
    found.extend(promises(spec));
    found
}

fn promises(spec: &TreeSpec) -> Option<(String, String, &'static str)> {
    let promised: u64 = spec.classes.values().map(|share| share.guarantee.bits().0).sum();
    let host = spec.host.guarantee.bits().0;
    let (field, room, what) = match (spec.speed, spec.pods.ceiling) {
        (Some(speed), _) if host >= speed.bits().0 => {
            let message = format!("{} leaves nothing of the speed {speed} for pods", spec.host.guarantee);
            return Some(("spec.tree.host.guarantee".to_owned(), message, "lower it"));
        }
        (Some(speed), Some(ceiling)) if ceiling.bits().0 < speed.bits().0 - host => {
            ("spec.tree.classes", ceiling.bits().0, "the pods' ceiling")
        }
        (Some(speed), _) => ("spec.tree.classes", speed.bits().0 - host, "what the host leaves of the speed"),
        (None, Some(ceiling)) => ("spec.tree.classes", ceiling.bits().0, "the pods' ceiling"),
        (None, None) => return None,
    };
    (promised > room).then(|| {
        let (promised, room) = (BitsPerSecond(promised), BitsPerSecond(room));
        let message = format!("the guarantees are {promised} together, more than {what}, {room}");
        (field.to_owned(), message, "lower guarantees until they fit")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> TreeSpec {
        serde_json::from_str(json).unwrap()
    }

    const TWO: &str = r#"{"speed":"1G","host":{"guarantee":"200M"},"defaultClass":"online",
        "classes":{"online":{"guarantee":"500M"},"offline":{"guarantee":"100M","ceiling":"300M"}}}"#;

    #[test]
    fn a_pod_gets_the_class_it_asks_for_if_there_is_one() {
        let tree = tree("t", &spec(TWO));
        let name = |asked| tree.classes[&class_of(&tree, asked, "shop").unwrap()].name.as_str();
        assert_eq!(name(None), "online");
        assert_eq!(name(Some("offline")), "offline");
        assert_eq!(name(Some("gold")), "online");
    }

    #[test]
    fn a_class_can_be_for_some_namespaces() {
        let granted = TWO.replace(r#""ceiling":"300M""#, r#""ceiling":"300M","namespaces":["batch"]"#);
        let tree = tree("t", &spec(&granted));
        let name =
            |namespace| tree.classes[&class_of(&tree, Some("offline"), namespace).unwrap()].name.as_str();
        assert_eq!(name("batch"), "offline");
        assert_eq!((name("shop"), name("")), ("online", "online"));
    }

    #[test]
    fn without_classes_all_pods_are_one() {
        let tree = tree("t", &spec(r#"{"host":{"guarantee":"200M"}}"#));
        assert_eq!(tree.classes.len(), 1);
        assert!(class_of(&tree, Some("online"), "shop").is_some());
    }

    #[test]
    fn a_classs_number_does_not_depend_on_the_others() {
        let more = spec(&TWO.replace(r#""classes":{"#, r#""classes":{"batch":{"guarantee":"1M"},"#));
        let (before, after) = (tree("t", &spec(TWO)), tree("t", &more));
        assert_eq!(class_of(&before, Some("online"), ""), class_of(&after, Some("online"), ""));
        assert_eq!(after.classes.len(), 3);
    }

    #[test]
    fn promises_that_cannot_be_kept_are_found() {
        assert_eq!(mistakes(&spec(TWO)), []);
        let fields =
            |json: &str| mistakes(&spec(json)).into_iter().map(|(field, ..)| field).collect::<Vec<_>>();
        assert_eq!(fields(&TWO.replace("500M", "900M")), ["spec.tree.classes"]);
        assert_eq!(fields(&TWO.replace("300M", "50M")), ["spec.tree.classes.offline.ceiling"]);
        assert_eq!(fields(&TWO.replace(r#""defaultClass":"online","#, "")), ["spec.tree.defaultClass"]);
        assert_eq!(fields(&TWO.replace(r#":"online","#, r#":"gold","#)), ["spec.tree.defaultClass"]);
        assert_eq!(fields(&TWO.replace("200M", "1G")), ["spec.tree.host.guarantee"]);
    }
}
