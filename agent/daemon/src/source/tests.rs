use super::*;

const POOLS: &str = "\
# the data centre's pools
apiVersion: turnpike.io/v1alpha1
kind: IPPool
metadata:
  name: v4
spec:
  cidr: 10.244.0.0/16
---
apiVersion: turnpike.io/v1alpha1
kind: IPBlock
metadata: {name: n1-v4}
spec:
  cidr: 10.244.1.0/26
  pool: v4
  node: n1
";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn errors(files: &[(&str, &str)]) -> Vec<String> {
    let folder = folder(files);
    let prefix = format!("{}/", folder.path().display());
    let errors = read_folder(folder.path()).unwrap_err();
    errors.iter().map(|error| error.to_string().replace(&prefix, "")).collect()
}

#[test]
fn documents_of_all_files_are_one_set() {
    let peers = "apiVersion: turnpike.io/v1alpha1\nkind: BGPPeer\nmetadata: {name: rr1}\nspec: {peerAddress: 10.1.3.21, asNumber: 65001}\n";
    let folder = folder(&[("a.yaml", POOLS), ("b.yml", peers), (".a.yaml.swp", "{"), ("notes.txt", "x")]);
    let resources = read_folder(folder.path()).unwrap();
    assert_eq!((resources.pools.len(), resources.blocks.len(), resources.bgp_peers.len()), (1, 1, 1));
}

#[test]
fn a_misspelt_field_is_named_with_its_line_and_the_remedy() {
    let text = POOLS.replace("  node: n1", "  nod: n1");
    assert_eq!(
        errors(&[("a.yaml", &text)]),
        ["a.yaml:15: spec.nod: there is no field `nod` here; did you mean `node`?"]
    );
}

#[test]
fn a_wrong_value_is_named_with_its_line() {
    let text = POOLS.replace("10.244.1.0/26", "10.244.1.7/26");
    let found = errors(&[("a.yaml", &text)]);
    assert_eq!(
        found,
        [
            "a.yaml:13: spec.cidr: `10.244.1.7/26` has bits set behind its prefix length; write `10.244.1.0/26`"
        ]
    );
    let text = POOLS.replace("  cidr: 10.244.0.0/16", "  cidr: 10.244.0.0/16\n  state: Drained");
    let found = errors(&[("a.yaml", &text)]);
    assert!(found[0].starts_with("a.yaml:8: spec.state: `Drained` is not possible here; "), "{found:?}");
}

#[test]
fn missing_parts_are_named() {
    let text = POOLS.replace("  pool: v4\n", "");
    let found = errors(&[("a.yaml", &text)]);
    assert!(found[0].contains("`pool` is missing"), "{found:?}");
    let found = errors(&[("a.yaml", &POOLS.replacen("kind: IPPool\n", "", 1))]);
    assert!(found[0].starts_with("a.yaml:2: kind: it is missing"), "{found:?}");
}

#[test]
fn a_wrong_version_or_kind_is_answered_with_the_right_one() {
    let found = errors(&[("a.yaml", &POOLS.replacen("v1alpha1", "v1", 1))]);
    assert!(found[0].starts_with("a.yaml:2: apiVersion: `turnpike.io/v1` is not read"), "{found:?}");
    let found = errors(&[("a.yaml", &POOLS.replace("kind: IPBlock", "kind: IPBlok"))]);
    assert_eq!(found, ["a.yaml:10: kind: `IPBlok` is no kind of resource; did you mean `IPBlock`?"]);
}

#[test]
fn contradictions_between_files_are_named_where_they_are() {
    let second = "apiVersion: turnpike.io/v1alpha1\nkind: IPBlock\nmetadata:\n  name: stolen\nspec:\n  cidr: 10.244.1.0/26\n  pool: v4\n  node: n2\n";
    let found = errors(&[("a.yaml", POOLS), ("b.yaml", second)]);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("b.yaml:6: spec.cidr: 10.244.1.0/26 belongs to node n1 already"),
        "{found:?}"
    );
}

#[test]
fn one_name_twice_is_named_with_the_first_place() {
    let found = errors(&[("a.yaml", POOLS), ("b.yaml", POOLS)]);
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("b.yaml:5: metadata.name: IPPool/v4 is there already in "), "{found:?}");
    assert!(found[0].contains("a.yaml:5;"), "{found:?}");
}

#[test]
fn text_that_is_no_yaml_is_named_with_its_line() {
    let found = errors(&[("a.yaml", &POOLS.replace("  pool: v4", "  pool: [v4"))]);
    assert!(found[0].starts_with("a.yaml:1"), "{found:?}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = POOLS.replace("  node: n1", "  nod: n1").replace("10.244.0.0/16", "10.244.0.0");
    assert_eq!(errors(&[("a.yaml", &text)]).len(), 2);
}

#[test]
fn a_missing_folder_says_how_to_get_one() {
    let error = read_folder(Path::new("/nonexistent/resources")).unwrap_err();
    assert!(error[0].to_string().contains("create it, or set paths.resources"), "{}", error[0]);
}

#[test]
fn an_emptied_folder_takes_nothing_away_but_an_empty_file_does() {
    assert!(errors(&[("notes.txt", "x")])[0].contains("holds no *.yaml file"));
    let folder = folder(&[("none.yaml", "# nothing, on purpose\n")]);
    assert!(read_folder(folder.path()).unwrap().is_empty());
}

#[test]
fn the_copy_brings_the_last_good_state_back() {
    let state = tempfile::tempdir().unwrap();
    assert!(load_copy(state.path()).unwrap().is_none());
    let folder = folder(&[("a.yaml", POOLS)]);
    let resources = read_folder(folder.path()).unwrap();
    save_copy(state.path(), &resources).unwrap();
    assert_eq!(load_copy(state.path()).unwrap().unwrap(), resources);
}

#[test]
fn the_samples_in_deploy_are_good() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/resources");
    let resources = read_folder(&samples).unwrap();
    assert!(!resources.pools.is_empty() && !resources.blocks.is_empty() && !resources.bgp_peers.is_empty());
    assert!(!resources.node_bandwidths.is_empty() && !resources.lb_sources.is_empty());
    assert!(!resources.namespace_grants.is_empty());
}
