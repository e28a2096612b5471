//! Reports for people.

use turnpike_agent_api::{
    BwBurst, BwClass, BwDirection, BwPlan, BwPlanRow, BwPod, BwReport, BwShadow, BwTrial, BwUplink, Rates,
};

use crate::table::{duration, rate, table};

/// Columns of the pods' table.
pub(super) const COLUMNS: usize = 15;
/// Their headings; `>` is towards the pod, `<` from it.
pub(super) const HEADINGS: [&str; COLUMNS] = [
    "POD", "LIMIT>", "1s>", "10s>", "SHARE>", "MARKS>", "DROPS>", "QUEUE>", "LIMIT<", "1s<", "10s<",
    "SHARE<", "MARKS<", "DROPS<", "QUEUE<",
];

/// Limits in shadow that `top` has room for.
const SHADOWS: usize = 5;

/// `namespace/name`, or what else is known.
pub(super) fn name(pod: &BwPod) -> String {
    match (&pod.pod.namespace, &pod.pod.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.clone(),
        _ => pod.host_link.clone(),
    }
}

/// `turnpike bw show`.
pub(super) fn show(pod: &BwPod) -> String {
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    let mut text = format!("pod {}  {}  {}\n", name(pod), addresses.join(" "), pod.host_link);
    if let Some(class) = &pod.class {
        text.push_str(&format!("class {class} of the node tree\n"));
    }
    if !pod.exempt.is_empty() {
        text.push_str(&format!("not limited with {}\n", pod.exempt.join(", ")));
    }
    if !pod.exempt_refused.is_empty() {
        let refused = pod.exempt_refused.join(", ");
        text.push_str(&format!("asks to exempt {refused}, which no spec.exemptible holds\n"));
    }
    for (heading, direction) in
        [("to the pod (ingress)", &pod.to_workload), ("from the pod (egress)", &pod.from_workload)]
    {
        text.push_str(&format!("\n{heading}\n"));
        for (label, value) in lines(direction) {
            text.push_str(&format!("  {label:<12}{value}\n"));
        }
    }
    text
}

fn lines(direction: &BwDirection) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    match direction.limit {
        None => lines.push(("limit", "none".to_owned())),
        Some(limit) => {
            let by = &direction.decided_by;
            lines.push((
                "limit",
                format!("{}bit/s = {}, decided by {by}", rate(Some(limit)), bytes_each_second(limit)),
            ));
        }
    }
    if direction.sources.len() > 1 {
        for source in &direction.sources {
            lines.push(("  source", format!("{:<7}{}", rate(Some(source.rate)), source.source)));
        }
    }
    if let Some(BwBurst { time, bytes, decided_by }) = &direction.burst {
        lines.push(("burst", format!("{time} = {}B at once, {decided_by}", short(Some(*bytes)))));
    }
    let Rates { last_1s, last_10s } = direction.rates;
    lines.push(("rate", format!("{}bit/s over 1 s, {}bit/s over 10 s", short(last_1s), short(last_10s))));
    if direction.limit.is_some() {
        lines.push(("share", format!("{} of the limit", share(direction))));
        lines.push(("packets", packets(direction.marked, direction.drops, direction.not_capable)));
        lines.push(("queue", queue(direction)));
    }
    if let Some(shadow) = &direction.shadow {
        let (limit, by) = (shadow.limit, &shadow.decided_by);
        lines.push((
            "shadow",
            format!("{}bit/s = {}, by {by}, not in force", rate(Some(limit)), bytes_each_second(limit)),
        ));
        lines.push(("  would", format!("of {} packets: {}", shadow.packets, would(shadow))));
    }
    lines
}

fn would(shadow: &BwShadow) -> String {
    packets(shadow.marked, shadow.drops, shadow.not_capable)
}

fn packets(marked: u64, dropped: u64, early: u64) -> String {
    format!("{marked} marked (CE), {dropped} dropped, {early} of them early for want of ECN")
}

/// Limits in shadow, the hardest first.
fn shadows(report: &BwReport) -> Vec<String> {
    let both = |pod: &BwPod| {
        let who = name(pod);
        [("to", &pod.to_workload), ("from", &pod.from_workload)]
            .into_iter()
            .filter_map(|(way, direction)| Some((who.clone(), way, direction.shadow.clone()?)))
            .collect::<Vec<_>>()
    };
    let mut all: Vec<(String, &str, BwShadow)> = report.pods.iter().flat_map(both).collect();
    all.sort_by_key(|(_, _, shadow)| std::cmp::Reverse((shadow.drops, shadow.marked)));
    let rest = all.len().saturating_sub(SHADOWS);
    let line = |(who, way, shadow): &(String, &str, BwShadow)| {
        let (limit, would, by) = (rate(Some(shadow.limit)), would(shadow), &shadow.decided_by);
        format!("shadow {who}, {way} the pod: {limit} by {by} would have {would}")
    };
    let mut lines: Vec<String> = all.iter().take(SHADOWS).map(line).collect();
    if rest > 0 {
        lines.push(format!("shadow: {rest} more, see `turnpike bw show POD`"));
    }
    lines
}

/// `turnpike bw top --once`.
pub(super) fn top(report: &BwReport) -> String {
    let mut text = head(report).join("\n");
    text.push_str("\n\n");
    text.push_str(&table(HEADINGS, &rows(report)));
    if report.pods.is_empty() {
        text.push_str("  no pods\n");
    }
    text
}

/// `turnpike bw plan`: the hardest hit first, those that nothing would have happened to in one line.
pub(super) fn plan(plan: &BwPlan) -> String {
    let history = duration(plan.history_s);
    let mut text = format!("{} against {history} of history\n\n", plan.resource);
    let (mut hit, spared): (Vec<&BwPlanRow>, Vec<_>) = plan.rows.iter().partition(|row| row.seconds > 0);
    hit.sort_by_key(|row| std::cmp::Reverse((row.seconds, row.mean_excess)));
    let rows: Vec<[String; 7]> = hit.into_iter().map(plan_row).collect();
    let headings = ["WHO", "DIRECTION", "LIMIT NOW", "PLANNED", "HELD BACK", "BY (MEAN)", "BY (WORST)"];
    text.push_str(&table(headings, &rows));
    if rows.is_empty() {
        text.push_str("  nobody would have been held back\n");
    }
    if !spared.is_empty() {
        let names: Vec<String> = spared.iter().map(|row| format!("{} {}", row.name, row.direction)).collect();
        text.push_str(&format!("\nnot held back: {}\n", names.join(", ")));
    }
    for note in &plan.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

fn plan_row(row: &BwPlanRow) -> [String; 7] {
    let permille = row.seconds * 1000 / row.of_seconds.max(1);
    [
        row.name.clone(),
        row.direction.clone(),
        rate(row.before),
        rate(row.after),
        format!("{}.{}% of the time", permille / 10, permille % 10),
        format!("{}bit/s", short(Some(row.mean_excess))),
        format!("{}bit/s", short(Some(row.worst_excess))),
    ]
}

/// `turnpike bw apply`, `confirm` and `rollback`.
pub(super) fn trial(trial: &BwTrial) -> String {
    match trial.left_s {
        0 => format!("{} ({}): done, nothing on trial\n", trial.resource, trial.file),
        left => format!(
            "{} ({}) is in force on trial: taken back in {left} s unless you say `turnpike bw confirm`\n",
            trial.resource, trial.file
        ),
    }
}

/// The node and its uplinks.
pub(super) fn head(report: &BwReport) -> Vec<String> {
    let age = report.age_ms.map_or("never read".to_owned(), |age| format!("read {age} ms ago"));
    let history = duration(report.history_s);
    let mut lines =
        vec![format!("node {}: {} pods, counters {age}, history {history}", report.node, report.pods.len())];
    if !report.held_by.is_empty() {
        lines.push(format!("limits held by {}", report.held_by));
    }
    if let Some(trial) = &report.trial {
        let (resource, left, who) = (&trial.resource, trial.left_s, &trial.who);
        lines.push(format!("ON TRIAL by {who}: {resource}, taken back in {left} s unless confirmed"));
    }
    if !report.class_queues.is_empty() && report.uplinks.iter().any(|uplink| !uplink.classes.is_empty()) {
        lines.push(format!("classes queue by {}", report.class_queues));
    }
    for each in &report.uplinks {
        lines.push(uplink(each));
        lines.extend(each.classes.iter().map(class));
    }
    lines.extend(shadows(report));
    lines
}

fn uplink(uplink: &BwUplink) -> String {
    format!(
        "uplink {}: speed {}  out {} / {}  in {} / {}  free {}",
        uplink.name,
        rate(uplink.speed),
        short(uplink.sent.last_1s),
        short(uplink.sent.last_10s),
        short(uplink.received.last_1s),
        short(uplink.received.last_10s),
        short(uplink.free)
    )
}

fn class(class: &BwClass) -> String {
    let members = if class.name == "host" { String::new() } else { format!("  {} pods", class.pods) };
    format!(
        "  {:<12}guarantee {:<6} ceiling {:<6} out {} / {}  queue {}  drops {}{members}",
        class.name,
        rate(Some(class.guarantee)),
        rate(Some(class.ceiling)),
        short(class.sent.last_1s),
        short(class.sent.last_10s),
        milliseconds(class.queue_us),
        class.drops
    )
}

/// Pods, the busiest first; idle ones in order of their names.
pub(super) fn rows(report: &BwReport) -> Vec<[String; COLUMNS]> {
    let mut pods: Vec<&BwPod> = report.pods.iter().collect();
    let busy = |pod: &BwPod| {
        let rate = |direction: &BwDirection| direction.rates.last_1s.unwrap_or_default();
        rate(&pod.to_workload).saturating_add(rate(&pod.from_workload))
    };
    pods.sort_by_key(|pod| std::cmp::Reverse(busy(pod)));
    pods.into_iter().map(row).collect()
}

fn row(pod: &BwPod) -> [String; COLUMNS] {
    let [a, b, c, d, e, f, g] = cells(&pod.to_workload);
    let [h, i, j, k, l, m, n] = cells(&pod.from_workload);
    [name(pod), a, b, c, d, e, f, g, h, i, j, k, l, m, n]
}

fn cells(direction: &BwDirection) -> [String; 7] {
    let limited = |text: String| if direction.limit.is_some() { text } else { "-".to_owned() };
    [
        rate(direction.limit),
        short(direction.rates.last_1s),
        short(direction.rates.last_10s),
        share(direction),
        limited(direction.marked.to_string()),
        limited(direction.drops.to_string()),
        limited(queue(direction)),
    ]
}

fn share(direction: &BwDirection) -> String {
    direction.share_permille.map_or("-".to_owned(), |share| format!("{}.{}%", share / 10, share % 10))
}

fn queue(direction: &BwDirection) -> String {
    milliseconds(direction.queue_us)
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:02}ms", us / 1000, us % 1000 / 10)
}

fn bytes_each_second(bits: u64) -> String {
    format!("{}B/s", short(Some(bits / 8)))
}

/// A number with three or four digits and a suffix: `95.6M`; `-` for none.
pub(super) fn short(value: Option<u64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let (mut whole, mut rest, mut suffix) = (value, 0, "");
    for next in ["k", "M", "G", "T", "P"] {
        if whole < 1000 {
            break;
        }
        (whole, rest, suffix) = (whole / 1000, whole % 1000, next);
    }
    match (suffix, whole) {
        ("", _) | (_, 100..) => format!("{whole}{suffix}"),
        (_, 10..) => format!("{whole}.{}{suffix}", rest / 100),
        _ => format!("{whole}.{:02}{suffix}", rest / 10),
    }
}
