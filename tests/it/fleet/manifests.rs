//! The manifests of `container/deploy/kubernetes` and `compose.yaml`: their schemas, and whether
//! their parts fit each other, HAProxy's configuration and the server.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use longshore::telemetry::metrics::table::TABLE;
use serde_json::Value;

use super::balancer::{config, is_skipped};
use crate::harness::{Builder, Request, TRITON, eventually, fixture, skip_unless};

const KUBERNETES: &str = "container/deploy/kubernetes";
const COMPOSE: &str = "container/deploy/fleet/compose.yaml";

#[track_caller]
fn yaml(path: &str) -> Value {
    let documents = TRITON.output("tests/kserve/manifests.py", [path], []);
    serde_json::from_str::<Vec<Value>>(&documents).unwrap().remove(0)
}

/// The manifests, checked against the schemas of Kubernetes and of the Prometheus operator.
struct Manifests(Vec<Value>);

impl Manifests {
    /// The manifests of the files, with the component `autoscaling`.
    fn read() -> Self {
        Self::checked(&[])
    }

    /// The manifests that kubectl's Kustomize makes, without and with the component; `None` where
    /// kubectl is missing.
    fn rendered() -> Option<[Self; 2]> {
        if skip_unless(&["kubectl", "version", "--client"]) {
            return None;
        }
        Some(["plain", "component"].map(|which| Self::checked(&[which])))
    }

    #[track_caller]
    fn checked(arguments: &[&str]) -> Self {
        // Where kubectl is.
        let path = ("PATH", env::var("PATH").unwrap());
        let checked = TRITON.output("tests/kubernetes/check.py", arguments, [path]);
        Self(serde_json::from_str(&checked).unwrap())
    }

    #[track_caller]
    fn get(&self, kind: &str, name: &str) -> &Value {
        let found = self
            .0
            .iter()
            .find(|manifest| manifest["kind"] == kind && manifest["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |manifest| manifest["kind"] == kind)
    }

    /// The variables of the container, with those of a ConfigMap.
    fn variables(&self, container: &Value) -> Vec<(String, String)> {
        let sources = container["envFrom"].as_array().into_iter().flatten();
        let maps = sources.map(|source| self.get("ConfigMap", source["configMapRef"]["name"].as_str().unwrap()));
        let from_maps = maps.flat_map(|map| map["data"].as_object().unwrap().iter());
        let mut variables: Vec<_> = from_maps.map(|(name, value)| (name.clone(), text(value))).collect();
        let own = container["env"].as_array().into_iter().flatten();
        variables.extend(own.map(|entry| (text(&entry["name"]), text(&entry["value"]))));
        variables
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn container(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]["containers"][0]
}

/// Seconds of a text such as `45s`.
fn seconds(text: &str) -> u64 {
    text.strip_suffix('s').unwrap().parse().unwrap()
}

/// The text after `key` in HAProxy's configuration.
fn setting(key: &str) -> String {
    let text = fs::read_to_string(config()).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
    line.unwrap().trim().to_owned()
}

/// Names of variables that HAProxy's configuration reads.
fn fleet_variables() -> BTreeSet<String> {
    let text = fs::read_to_string(config()).unwrap();
    let names = text.split("${").skip(1);
    names
        .map(|rest| rest.split(['}', '-']).next().unwrap().to_owned())
        .collect()
}

/// Fails for a variable that neither the server nor HAProxy reads.
#[track_caller]
fn assert_known(variables: impl IntoIterator<Item = String>) {
    let options = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/options.md")).unwrap();
    let fleet = fleet_variables();
    for name in variables.into_iter().filter(|name| name.starts_with("LONGSHORE_")) {
        assert!(
            fleet.contains(&name) || options.contains(&format!("`{name}`")),
            "{name} is unknown"
        );
    }
}

/// The number of servers that HAProxy's configuration has: the same ones in both backends.
fn servers_of_config() -> usize {
    let text = fs::read_to_string(config()).unwrap();
    let all = text.lines().filter_map(|line| line.trim().strip_prefix("server "));
    let (tracking, checked): (Vec<_>, Vec<_>) = all.partition(|server| server.contains(" track "));
    for (server, other) in checked.iter().zip(&tracking) {
        let name = server.split(' ').next().unwrap();
        assert_eq!(*other, format!("{server} track models/{name}"));
    }
    assert_eq!(checked.len(), tracking.len());
    checked.len()
}

#[test]
fn haproxy_accepts_the_configuration_without_a_warning() {
    if is_skipped() {
        return;
    }
    let mut haproxy = Command::new("haproxy");
    haproxy.args(["-c", "-f"]).arg(config());
    haproxy
        .env("LONGSHORE_FLEET_PREFIX", "127.0.0.")
        .env("LONGSHORE_FLEET_SUFFIX", ":8080");
    let output = haproxy.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !printed.contains("WARNING"), "{printed}");
}

#[test]
fn the_manifests_match_kubernetes_schemas_and_each_other() {
    assert_fit(&Manifests::read());
}

#[test]
fn kubectl_renders_the_manifests_for_clusters_with_and_without_the_prometheus_operator() {
    let Some([plain, with_component]) = Manifests::rendered() else {
        return;
    };
    for manifests in [&plain, &with_component] {
        assert_fit(manifests);
    }
    // A cluster refuses kinds that it does not know.
    for manifest in &plain.0 {
        let version = text(&manifest["apiVersion"]);
        assert!(["v1", "apps/v1", "policy/v1"].contains(&&*version), "{version}");
    }
    let replicas = |manifests: &Manifests| manifests.get("StatefulSet", "longshore")["spec"]["replicas"].as_u64();
    assert_eq!(replicas(&plain), Some(3));
    // The autoscaler sets it.
    assert_eq!(replicas(&with_component), None);
    for kind in ["HorizontalPodAutoscaler", "ServiceMonitor", "PodMonitor"] {
        assert_eq!(with_component.of_kind(kind).count(), 1, "{kind}");
    }
}

/// Fails for a part of the manifests that names another one which does not exist.
#[track_caller]
fn assert_fit(manifests: &Manifests) {
    let servers = manifests.get("StatefulSet", "longshore");
    let balancers = manifests.get("Deployment", "longshore-balancer");
    let labels = |workload: &Value| workload["spec"]["template"]["metadata"]["labels"].clone();
    let known = [labels(servers), labels(balancers)];
    let selectors = manifests.of_kind("Service").map(|service| &service["spec"]["selector"]);
    let others = [
        "StatefulSet",
        "Deployment",
        "PodDisruptionBudget",
        "ServiceMonitor",
        "PodMonitor",
    ];
    let others = others.into_iter().flat_map(|kind| manifests.of_kind(kind));
    for selector in selectors.chain(others.map(|other| &other["spec"]["selector"]["matchLabels"])) {
        assert!(known.contains(selector), "nothing has the labels {selector}");
    }

    for workload in [servers, balancers] {
        assert_known(
            manifests
                .variables(container(workload))
                .into_iter()
                .map(|(name, _)| name),
        );
        let volumes = workload["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        let names: Vec<_> = volumes.iter().map(|volume| &volume["name"]).collect();
        for mount in container(workload)["volumeMounts"].as_array().unwrap() {
            assert!(names.contains(&&mount["name"]), "{mount}");
        }
        for map in volumes.iter().filter_map(|volume| volume["configMap"]["name"].as_str()) {
            manifests.get("ConfigMap", map);
        }
    }
    let found = manifests
        .of_kind("ConfigMap")
        .find_map(|map| map["data"]["haproxy.cfg"].as_str());
    assert_eq!(found, Some(&*fs::read_to_string(config()).unwrap()));
}

#[test]
fn pods_have_more_time_to_end_than_their_requests() {
    let manifests = Manifests::read();
    let grace = |workload: &Value| {
        let spec = &workload["spec"]["template"]["spec"];
        let wait = &container(workload)["lifecycle"]["preStop"]["sleep"]["seconds"];
        (
            spec["terminationGracePeriodSeconds"].as_u64().unwrap(),
            wait.as_u64().unwrap(),
        )
    };
    let servers = manifests.get("StatefulSet", "longshore");
    let variables = manifests.variables(container(servers));
    let (_, drain) = variables
        .iter()
        .find(|(name, _)| name == "LONGSHORE_DRAIN_TIMEOUT")
        .unwrap();
    let (total, wait) = grace(servers);
    assert!(total > wait + seconds(drain) + 1, "{total}");
    let (total, wait) = grace(manifests.get("Deployment", "longshore-balancer"));
    let longest = seconds(&setting("hard-stop-after"));
    assert!(total > wait + longest, "{total}");
    // The balancer waits longer for a response than a server takes (--request-timeout, 58s).
    assert!(seconds(&setting("timeout server")) > 58 && longest > 58);
}

#[test]
fn the_autoscaler_uses_a_metric_of_the_server() {
    let manifests = Manifests::read();
    let spec = &manifests.get("HorizontalPodAutoscaler", "longshore")["spec"];
    manifests.get(
        spec["scaleTargetRef"]["kind"].as_str().unwrap(),
        spec["scaleTargetRef"]["name"].as_str().unwrap(),
    );
    assert_eq!(spec["maxReplicas"].as_u64().unwrap(), servers_of_config() as u64);
    let metric = text(&spec["metrics"][0]["pods"]["metric"]["name"]);
    assert!(
        TABLE.iter().any(|known| known.name == metric && known.is_always_there),
        "{metric}"
    );
    let rule = &yaml(&format!("{KUBERNETES}/autoscaling/prometheus-adapter.yaml"))["rules"]["custom"][0];
    assert_eq!(rule["name"]["as"], metric.as_str());
    assert!(text(&rule["seriesQuery"]).starts_with(&format!("{metric}{{")));
}

#[test]
fn a_server_starts_with_the_variables_of_the_manifests_and_passes_the_probes() {
    let manifests = Manifests::read();
    let pod = container(manifests.get("StatefulSet", "longshore"));
    // Local folders stand for the bucket and the volume.
    let builder = Builder::default().environment("SAGEMAKER_BIND_TO_PORT", "0");
    let cache = builder.models().cache().to_owned();
    let mut builder = builder.arguments(&[] as &[&str]);
    for (name, value) in manifests.variables(pod) {
        builder = match &*name {
            "LONGSHORE_MODEL_STORE" => builder.environment(&name, fixture("")),
            "LONGSHORE_CACHE_DIR" => builder.environment(&name, &cache),
            // The harness reads the address from the log as text.
            "LONGSHORE_LOG_FORMAT" => builder,
            _ => builder.environment(&name, value),
        };
    }
    let server = builder.start();
    for probe in ["readinessProbe", "livenessProbe"] {
        let path = text(&pod[probe]["httpGet"]["path"]);
        eventually("the probe passes", || server.send(&Request::get(&path)).status == 200);
    }
    server.assert_scales("scale", 1234.5);
}

#[test]
fn the_services_of_compose_fit_the_configuration() {
    let compose = yaml(COMPOSE);
    let services = compose["services"].as_object().unwrap();
    let balancer = &services["balancer"];
    let of_balancer = balancer["environment"].as_object().unwrap();
    let variable = |name: &str| text(&of_balancer[name]);
    for (index, depends) in balancer["depends_on"].as_array().unwrap().iter().enumerate() {
        assert_eq!(text(depends), format!("{}{index}", variable("LONGSHORE_FLEET_PREFIX")));
        let server = &services[&text(depends)];
        assert_known(server["environment"].as_object().unwrap().keys().cloned());
        // Longer than --drain-timeout (25s).
        assert!(seconds(&text(&server["stop_grace_period"])) > 26);
        for volume in server["volumes"].as_array().unwrap() {
            let name = text(volume).split(':').next().unwrap().to_owned();
            assert!(compose["volumes"].get(&name).is_some(), "{name}");
        }
    }
    assert_eq!(balancer["depends_on"].as_array().unwrap().len() + 1, services.len());
    for port in balancer["ports"].as_array().unwrap() {
        let usual = text(port).replacen("${LONGSHORE_PUBLISH:-", "", 1);
        assert!(usual.starts_with("127.0.0.1:"), "{port} is open to other machines");
    }
    assert_known(of_balancer.keys().cloned());
    assert!(seconds(&text(&balancer["stop_grace_period"])) > seconds(&setting("hard-stop-after")));
    let pod = Manifests::read();
    let image = &container(pod.get("Deployment", "longshore-balancer"))["image"];
    assert_eq!(balancer["image"], *image, "one release of HAProxy");
}
