//! `turnpike bw plan`: a `NodeBandwidth` that is not in force, against the recorded history.

use std::path::Path;

use turnpike_agent_api::{BwPlan, BwPlanRow, ErrorReply, code};
use turnpike_calc::{
    Demand, HISTORY_SECONDS, LocalPod, Node, Series, Throttled, class_of, explain, node_tree, tree_throttles,
    validate,
};
use turnpike_model::bandwidth::{Mode, NodeBandwidthSpec};
use turnpike_model::desired::NodeTree;
use turnpike_model::resource::{Resource, Resources};

use crate::agent::Agent;
use crate::source;

use super::Seen;

/// The one `NodeBandwidth` that a text holds.
pub(super) fn parse(file: &str, text: &str) -> Result<(String, NodeBandwidthSpec), ErrorReply> {
    let refused = |message: String| ErrorReply::new(code::INVALID_CONFIG, message);
    let mut resources =
        source::parse_text(Path::new(file), text).map_err(|error| refused(error.to_string()))?;
    match (resources.pop(), resources.is_empty()) {
        (Some(Resource::NodeBandwidth(object)), true) => Ok((object.metadata.name, object.spec)),
        (None, _) => Err(refused(format!("{file} holds no resource"))),
        _ => Err(refused(format!("{file} holds more, or something else, than one NodeBandwidth"))
            .with_details("give the one NodeBandwidth a file of its own")),
    }
}

/// The resources in force with this one put in, or what is wrong with it.
pub(super) fn with_resource(
    agent: &Agent,
    name: &str,
    spec: &NodeBandwidthSpec,
) -> Result<(Resources, Resources), ErrorReply> {
    let before = agent.books().resources().clone();
    let mut after = before.clone();
    after.node_bandwidths.insert(name.to_owned(), spec.clone());
    let issues: Vec<String> = validate(&after).iter().map(ToString::to_string).collect();
    if issues.is_empty() {
        return Ok((before, after));
    }
    Err(ErrorReply::new(code::INVALID_CONFIG, issues.join("; ")))
}

/// Who would have been held back.
pub(super) fn plan(agent: &Agent, file: &str, text: &str) -> Result<BwPlan, ErrorReply> {
    let (name, mut spec) = parse(file, text)?;
    let in_shadow = !spec.is_enforced();
    // What it would do if it were in force is what somebody wants to know.
    spec.mode = Mode::Enforce;
    let (before, after) = with_resource(agent, &name, &spec)?;
    let (pods, node) = {
        let books = agent.books();
        (books.local_pods(), books.node().clone())
    };
    let seen = agent.bandwidth.seen();
    let mut plan = BwPlan {
        resource: format!("NodeBandwidth/{name}"),
        history_s: seconds(seen.meter.depth()),
        ..BwPlan::default()
    };
    if in_shadow {
        plan.notes.push("it is in shadow, and would change nothing: this is for mode Enforce".to_owned());
    }
    if spec.node_selector.as_ref().is_some_and(|selector| !selector.matches(&node.labels)) {
        plan.notes.push(format!("it does not select node {}: nothing would change here", node.name));
    }
    for (pod, label) in &pods {
        plan.rows.extend(pod_rows(
            &seen,
            pod,
            label,
            &explain(&before, &node, &pod.asked, &pod.namespace),
            &explain(&after, &node, &pod.asked, &pod.namespace),
        ));
    }
    if let Some(tree) = node_tree(&after, &node) {
        tree_rows(&mut plan, &seen, &tree, &pods, &after, &node);
    }
    Ok(plan)
}

fn pod_rows(
    seen: &Seen,
    pod: &LocalPod,
    label: &str,
    before: &[turnpike_calc::Decision; 2],
    after: &[turnpike_calc::Decision; 2],
) -> Vec<BwPlanRow> {
    let link = || pod.host_link.clone();
    let series = [("to the pod", Series::ToPod(link())), ("from the pod", Series::FromPod(link()))];
    let both = series.into_iter().zip(before.iter().zip(after));
    both.filter(|(_, (before, after))| before.limit != after.limit || after.limit.is_some())
        .map(|((direction, series), (before, after))| {
            let rates = || seen.meter.history(&series);
            let throttled = match after.limit {
                Some(limit) => Throttled::by_limit(rates(), limit.0),
                None => Throttled::of(rates().map(|_| 0)),
            };
            row(label, direction, (before.limit, after.limit), throttled)
        })
        .collect()
}

fn row(
    name: &str,
    direction: &str,
    (before, after): (
        Option<turnpike_model::desired::BitsPerSecond>,
        Option<turnpike_model::desired::BitsPerSecond>,
    ),
    throttled: Throttled,
) -> BwPlanRow {
    BwPlanRow {
        name: name.to_owned(),
        direction: direction.to_owned(),
        before: before.map(|rate| rate.0),
        after: after.map(|rate| rate.0),
        seconds: throttled.seconds,
        of_seconds: throttled.of_seconds,
        mean_excess: throttled.mean,
        worst_excess: throttled.worst,
    }
}

fn tree_rows(
    plan: &mut BwPlan,
    seen: &Seen,
    tree: &NodeTree,
    pods: &[(LocalPod, String)],
    resources: &Resources,
    node: &Node,
) {
    let named = |name: &str| tree.uplinks.is_empty() || tree.uplinks.contains(name);
    let uplinks: Vec<_> = seen.latest.uplinks.iter().filter(|uplink| named(&uplink.name)).collect();
    let [uplink] = uplinks.as_slice() else {
        plan.notes
            .push(format!("{} uplinks would share the pods' traffic: classes cannot be told", uplinks.len()));
        return;
    };
    let Some(speed) = tree.speed.or(uplink.speed) else {
        plan.notes.push(format!("the speed of {} is unknown; set spec.tree.speed", uplink.name));
        return;
    };
    let mut demands: Vec<Demand> = seen
        .meter
        .history(&Series::UplinkOut(uplink.name.clone()))
        .map(|host| Demand { host, ..Demand::default() })
        .collect();
    for (pod, _) in pods {
        let Some(class) = class_of(tree, pod.asked.class.as_deref(), &pod.namespace) else { continue };
        let [_, decision] = explain(resources, node, &pod.asked, &pod.namespace);
        let rates = seen.meter.history(&Series::FromPod(pod.host_link.clone()));
        for (demand, rate) in demands.iter_mut().zip(rates) {
            demand.host = demand.host.saturating_sub(rate);
            let limited = decision.limit.map_or(rate, |limit| rate.min(limit.0));
            *demand.classes.entry(class).or_default() += limited;
        }
    }
    let (host, classes) = tree_throttles(tree, speed.0, &demands);
    plan.rows.push(row("host", &format!("out of {}", uplink.name), (None, None), host));
    for (number, class) in &tree.classes {
        let throttled = classes.get(number).copied().unwrap_or_default();
        let ceiling = class.ceiling.or(tree.pods_ceiling).or(Some(speed));
        plan.rows.push(row(
            &format!("class {}", class.name),
            &format!("out of {}", uplink.name),
            (None, ceiling),
            throttled,
        ));
    }
    plan.notes.push("traffic between pods of this node counts as if it left through the uplink".to_owned());
}

fn seconds(count: usize) -> u64 {
    u64::try_from(count.min(HISTORY_SECONDS)).unwrap_or(u64::MAX)
}
