//! What is promised of `deploy/`: what it names is there. Metrics and labels of the dashboard and the alerts are measured, settings
//! are settings, probes have an answer, and who stops a service gives it the time that it takes.

use crate::common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::upstream::{Fault, Script, Upstream, chat_on};
use common::{Home, Server, Setup, here, read_events};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// The files below `deploy/` of one of these kinds. What secrets.sh made there is not a part of it.
fn files(kinds: &[&str]) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(here("deploy")).sort_by_file_name().into_iter();
    let found =
        walk.filter_entry(|entry| entry.file_name() != "secrets").map(|entry| entry.expect("a file").into_path());
    found.filter(|path| kinds.iter().any(|kind| path.extension().is_some_and(|extension| extension == *kind))).collect()
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// The documents of a YAML file.
fn yaml(path: impl AsRef<Path>) -> Vec<Value> {
    // Compose's own tag says how files are laid over each other, which is not looked at here.
    let text = text(path.as_ref()).replace("!override", "");
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Every member of this name, wherever it stands.
fn members<'v>(value: &'v Value, name: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            if key == name {
                found.push(value);
            }
            members(value, name, found);
        }),
        Value::Array(values) => values.iter().for_each(|value| members(value, name, found)),
        _ => {}
    }
}

fn all<'v>(value: &'v Value, name: &str) -> Vec<&'v Value> {
    let mut found = Vec::new();
    members(value, name, &mut found);
    found
}

fn str<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {pointer} in {value}"))
}

// --- Metrics ---

/// Labels that Prometheus adds itself.
const ADDED: [&str; 2] = ["job", "instance"];

/// Label, operator, value.
type Condition = (String, String, String);

/// What a PromQL expression names.
#[derive(Debug, Default)]
struct Query {
    /// Metrics, each with its conditions.
    selected: Vec<(String, Vec<Condition>)>,
    /// Labels by which it groups.
    grouped: Vec<String>,
}

/// Reads the names out of an expression. It is no check of the grammar: `promtool check rules` is.
fn names(expression: &str) -> Query {
    let mut query = Query::default();
    let mut rest = expression;
    let name_end =
        |text: &str| text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    while let Some(first) = rest.chars().next() {
        match first {
            '"' => rest = &rest[1..][rest[1..].find('"').expect("a text ends") + 1..],
            '[' => rest = &rest[rest.find(']').expect("a range ends") + 1..],
            // A number, and the unit of a duration.
            '0'..='9' => rest = &rest[name_end(rest)..],
            'a'..='z' | 'A'..='Z' | '_' => {
                let (name, after) = rest.split_at(name_end(rest));
                let after = after.trim_start();
                rest = after;
                match (name, after.chars().next()) {
                    ("and" | "or" | "unless" | "bool" | "offset", _) => {}
                    ("by" | "without" | "on" | "ignoring" | "group_left" | "group_right", Some('(')) => {
                        let end = after.find(')').expect("a list ends");
                        let labels = after[1..end].split(',').map(str::trim).filter(|label| !label.is_empty());
                        query.grouped.extend(labels.map(str::to_owned));
                        rest = &after[end + 1..];
                    }
                    (_, Some('(')) => {}
                    _ if after.starts_with("by ") || after.starts_with("without ") => {}
                    (_, Some('{')) => {
                        let end = after.find('}').expect("conditions end");
                        query.selected.push((name.to_owned(), conditions(&after[1..end])));
                        rest = &after[end + 1..];
                    }
                    _ => query.selected.push((name.to_owned(), Vec::new())),
                }
            }
            _ => rest = &rest[first.len_utf8()..],
        }
    }
    query
}

/// `label="value", label=~"value"`.
fn conditions(text: &str) -> Vec<Condition> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('"') {
        let (condition, value) = (&rest[..start], &rest[start + 1..]);
        let end = value.find('"').expect("a value ends");
        let condition = condition.trim_start_matches([',', ' ', '\n']).trim();
        let label = condition.trim_end_matches(['=', '!', '~']);
        found.push((label.to_owned(), condition[label.len()..].to_owned(), value[..end].to_owned()));
        rest = &value[end + 1..];
    }
    found
}

#[test]
fn names_are_read_out_of_expressions() {
    let query = names(
        "histogram_quantile(0.95, sum by (le, route) (rate(a_bucket{job=~\"$job\", op!=\"\"}[5m]))) > 5 and on (job) b:c offset 1h == bool 3",
    );
    let selected: Vec<&str> = query.selected.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        (selected.as_slice(), query.grouped.as_slice()),
        (&["a_bucket", "b:c"][..], &["le", "route", "job"].map(String::from)[..])
    );
    let condition =
        |label: &str, operator: &str, value: &str| (label.to_owned(), operator.to_owned(), value.to_owned());
    assert_eq!(query.selected[0].1, [condition("job", "=~", "$job"), condition("op", "!=", "")]);
}

/// Everything in `deploy/` that asks Prometheus: where it stands, the expression, and the labels that are shown of what comes of it.
fn queries() -> Vec<(String, String, Vec<String>)> {
    let mut found = Vec::new();
    let dashboard: Value = serde_json::from_str(&text(here("deploy/grafana/answerd.json"))).expect("JSON");
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let shown = between(str(target, "/legendFormat"), "{{", "}}");
            found.push((format!("dashboard: {}", str(panel, "/title")), str(target, "/expr").to_owned(), shown));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        if variable["type"] == "query" {
            let definition = str(variable, "/definition").trim_start_matches("label_values(").trim_end_matches(')');
            let (metric, label) = definition.rsplit_once(',').expect("label_values(metric, label)");
            found.push((
                format!("dashboard: {}", str(variable, "/name")),
                metric.to_owned(),
                vec![label.trim().to_owned()],
            ));
        }
    }
    for rule in alerts() {
        let shown = between(&rule["annotations"].to_string(), "$labels.", " ");
        found.push((format!("alert {}", str(&rule, "/alert")), str(&rule, "/expr").to_owned(), shown));
    }
    let scaled = yaml(here("deploy/kubernetes/autoscaling/scaledobject.yaml")).remove(0);
    found.push(("autoscaling".to_owned(), str(&scaled, "/spec/triggers/0/metadata/query").to_owned(), Vec::new()));
    found
}

/// The texts between two marks.
fn between(text: &str, open: &str, close: &str) -> Vec<String> {
    text.split(open).skip(1).filter_map(|rest| rest.split(close).next()).map(|label| label.trim().to_owned()).collect()
}

fn alerts() -> Vec<Value> {
    let rules = yaml(here("deploy/prometheus/answerd-alerts.yaml")).remove(0);
    rules["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules").clone())
        .collect()
}

/// What `/metrics` says: for each metric the labels, and for each of these its values.
type Measured = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn measured(text: &str) -> Measured {
    let mut found = Measured::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = &line[..line.find(['{', ' ']).unwrap_or(line.len())];
        let labels = found.entry(name.to_owned()).or_default();
        if let Some(start) = line.find('{') {
            for (label, _, value) in conditions(&line[start + 1..line.rfind('}').expect("labels end")]) {
                labels.entry(label).or_default().insert(value);
            }
        }
    }
    found
}

/// What a query names that is not measured.
fn missing(place: &str, expression: &str, shown: &[String], measured: &Measured) -> Vec<String> {
    let query = names(expression);
    assert!(!query.selected.is_empty(), "{place}: no metric in {expression}");
    let mut found = Vec::new();
    for (metric, conditions) in &query.selected {
        let Some(labels) = measured.get(metric) else {
            found.push(format!("{place}: there is no metric {metric}"));
            continue;
        };
        for (label, operator, value) in conditions {
            match labels.get(label) {
                _ if ADDED.contains(&label.as_str()) => {}
                None => found.push(format!("{place}: {metric} has no label {label}")),
                // A pattern that is a list of values, and one value; others are looked at by nobody.
                Some(values) if ["=", "=~"].contains(&operator.as_str()) && !value.contains(['$', '.', '*']) => {
                    let unknown = value.split('|').filter(|one| !values.contains(*one));
                    found.extend(
                        unknown.map(|one| format!("{place}: no {metric} has {label}={one:?}, there are {values:?}")),
                    );
                }
                Some(_) => {}
            }
        }
    }
    let has = |label: &String| {
        ADDED.contains(&label.as_str())
            || query
                .selected
                .iter()
                .any(|(metric, _)| measured.get(metric).is_some_and(|labels| labels.contains_key(label)))
    };
    let without = query.grouped.iter().chain(shown).filter(|label| !has(label));
    found.extend(without.map(|label| format!("{place}: nothing in it has the label {label}")));
    found
}

/// Uses everything a little that is counted.
async fn traffic(server: &Server, upstream: &Upstream) {
    server.put_visible("leave.md", "# Leave\n\nEvery employee has 28 days of annual leave.").await;
    let locked = std::fs::read(here("tests/documents/locked-aes-256.pdf")).expect("a document");
    let (_, body) = server.put("/v1/documents/locked.pdf?wait=true", "application/pdf", locked).await;
    assert_eq!(body["status"], "failed", "{body}");
    let ask = async || {
        let body = json!({ "question": "How many days of annual leave are there?", "max_tokens": 20 });
        read_events(server.ask(body).await).await
    };
    ask().await;
    ask().await;
    upstream.play(Script::failing(Fault::Status(500)));
    let failed =
        server.ask(json!({ "question": "Who may carry leave over into the next year?", "max_tokens": 20 })).await;
    assert!(read_events(failed).await.iter().any(|event| event.name == "error"));
    server.post("/v1/embeddings", json!({ "model": "all-MiniLM-L6-v2", "input": "annual leave" })).await;
    // Until the budget is used up.
    server
        .until("requests are turned away", async || {
            server.post("/v1/search", json!({ "query": "leave" })).await.0 == StatusCode::TOO_MANY_REQUESTS
        })
        .await;
}

#[tokio::test]
async fn what_the_dashboard_the_alerts_and_the_autoscaler_ask_for_is_measured() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(20, 1)));
    let settings = format!("{}\ncache.enabled=true\nbudgets.requests_per_minute=30", chat_on(&[&upstream]));
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    traffic(&server, &upstream).await;
    let metrics = server.http.get(server.url("/metrics")).send().await.expect("a response").text().await.expect("text");
    let measured = measured(&metrics);
    let queries = queries();
    assert!(queries.len() > 50, "{}", queries.len());
    let missing: Vec<String> =
        queries.iter().flat_map(|(place, expression, shown)| missing(place, expression, shown, &measured)).collect();
    assert!(missing.is_empty(), "{}\n\nmeasured are {:#?}", missing.join("\n"), measured.keys());
}

#[test]
fn every_chart_of_the_admin_page_is_in_the_dashboard() {
    let (charts, texts) =
        (text(here("src/web/ui/src/admin/charts.ts")), text(here("src/web/ui/src/shared/texts-admin.ts")));
    let texts = texts.split("charts: {").nth(1).expect("the texts of the charts");
    let dashboard: Value = serde_json::from_str(&text(here("deploy/grafana/answerd.json"))).expect("JSON");
    let panels = common::texts(&dashboard["panels"], "title");
    let names = between(&charts, "title: t.", ",");
    assert!(names.len() >= 9, "{names:?}");
    for name in names {
        let title = between(texts, &format!("{name}: \""), "\"").remove(0);
        assert!(panels.iter().any(|panel| panel.starts_with(&title)), "no panel {title:?} among {panels:?}");
    }
    let ids: BTreeSet<u64> = all(&dashboard["panels"], "id").into_iter().filter_map(Value::as_u64).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
}

#[test]
fn every_alert_says_what_to_do_and_is_tried() {
    let (runbook, tried) = (text(here("docs/operations.md")), text(here("deploy/prometheus/answerd-alerts-test.yaml")));
    // All but AnswerdAbsent are raised by the same service.
    let raised = format!("eval_time: 45m, exp_samples: [{{ labels: '{{}}', value: {} }}]", alerts().len() - 1);
    assert!(tried.contains(&raised), "the test of the alerts does not say {raised}");
    for rule in alerts() {
        let name = str(&rule, "/alert");
        assert!(runbook.contains(&format!("\n### {name}\n")), "docs/operations.md has no section {name}");
        assert_eq!(str(&rule, "/annotations/runbook"), format!("docs/operations.md#{}", name.to_lowercase()));
        for part in ["/annotations/summary", "/annotations/description", "/labels/severity"] {
            assert!(!str(&rule, part).is_empty());
        }
        // Of `a and b` there is the value of `a`.
        if str(&rule, "/annotations/summary").contains("humanizePercentage") {
            let mut told = str(&rule, "/expr").split_whitespace().take_while(|word| *word != "and");
            assert!(told.any(|word| word == "/"), "{name}: what it tells is no share");
        }
    }
}

// --- Settings ---

/// Has answerd check a configuration file with variables beside it, and nothing else in its environment.
fn check(config: &Path, variables: &[(String, String)]) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_answerd"));
    command
        .env_clear()
        .env("HOME", "/nowhere")
        .envs(variables.iter().cloned())
        .arg("check")
        .arg("--config")
        .arg(config);
    let output = command.output().expect("answerd runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{} with {variables:?}: {said}", config.display())) }
}

/// An `environment` of Compose.
fn environment(service: &Value) -> Vec<(String, String)> {
    let given = service["environment"].as_object().into_iter().flatten();
    given.map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned())).collect()
}

#[test]
fn every_combination_of_the_compose_files_is_a_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(here("deploy/compose/secrets.sh"), folder.path().join("secrets.sh")).expect("a copy");
    for _ in 0..2 {
        let made = Command::new("bash").arg(folder.path().join("secrets.sh")).output().expect("bash runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let secrets = folder.path().join("secrets");
    let parts = ["compose.postgres", "compose.qdrant", "compose.redis", "compose.nats", "compose.replicas"];
    for chosen in 0..1 << parts.len() {
        let chosen = (0..parts.len()).filter(|part| chosen & (1 << part) != 0).map(|part| parts[part]);
        let files: Vec<&str> = std::iter::once("compose").chain(chosen).collect();
        let mut variables: BTreeMap<String, String> = BTreeMap::new();
        for file in &files {
            let compose = yaml(here(&format!("deploy/compose/{file}.yaml"))).remove(0);
            for service in compose["services"].as_object().expect("services").values() {
                for secret in service["secrets"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    let path = str(&compose["secrets"], &format!("/{secret}/file"));
                    assert!(folder.path().join(path).is_file(), "{file}: secrets.sh makes no {path}");
                }
            }
            let inside = |value: String| match value.strip_prefix("/run/secrets/") {
                Some(name) => secrets.join(name).display().to_string(),
                None => value,
            };
            let answerd = &compose["services"]["answerd"];
            variables.extend(environment(answerd).into_iter().map(|(name, value)| (name, inside(value))));
        }
        let variables: Vec<_> = variables.into_iter().collect();
        check(&here("deploy/image.toml"), &variables).unwrap_or_else(|error| panic!("{files:?}: {error}"));
    }
}

/// What Kubernetes gives in variables.
fn secret() -> Vec<(String, String)> {
    let secret = yaml(here("deploy/kubernetes/secret.example.yaml")).remove(0);
    let settings = secret["stringData"].as_object().expect("settings").iter();
    settings.map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned())).collect()
}

#[test]
fn the_settings_of_kubernetes_and_of_systemd_are_settings() {
    let secret = secret();
    for variant in ["base", "embedded", "gpu"] {
        check(&here(&format!("deploy/kubernetes/{variant}/config.toml")), &secret).unwrap();
    }
    let unit = text(here("deploy/systemd/answerd.service"));
    let variables = unit.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    let variables: Vec<_> = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert!(variables.len() >= 2, "{variables:?}");
    let settings = here("deploy/systemd/config.toml");
    check(&settings, &variables).unwrap();
    // All that it names is where the unit may write and who installs it puts the models: no folder of a checkout's.
    let config = answerd::config::Config::load_with(Some(&settings), []).expect("settings");
    assert!(config.folders.is_empty(), "{:?}", config.folders);
    for path in [&config.data.dir, &config.embedding.model, &config.models.chat.path] {
        assert!(path.starts_with("/var/lib/answerd"), "{}", path.display());
        let place = path.parent().expect("a folder").to_str().expect("a text");
        assert!(unit.contains(place), "the unit says nothing of {place}");
    }
    let packed = text(here("scripts/release.sh"));
    assert!(packed.contains("deploy/systemd/answerd.service deploy/systemd/config.toml"), "both are in the archive");
    // And one that is none is found out.
    let wrong = [("ANSWERD__DATA__FOLDER".to_owned(), "/data".to_owned())];
    assert!(check(&here("config.toml"), &wrong).unwrap_err().contains("data.folder"));
}

// --- Starting and stopping ---

#[tokio::test]
async fn what_probes_ask_for_has_an_answer() {
    let mut paths = BTreeSet::new();
    for file in files(&["yaml"]) {
        for document in yaml(&file) {
            let probes = all(&document, "httpGet");
            paths.extend(probes.iter().map(|probe| str(probe, "/path").to_owned()));
            // What ends by itself serves nobody.
            if document["kind"] == "Job" {
                continue;
            }
            for container in
                all(&document, "containers").into_iter().flat_map(|containers| containers.as_array().unwrap())
            {
                for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                    assert!(container[probe].is_object(), "{}: no {probe}", file.display());
                }
            }
        }
    }
    assert_eq!(paths.len(), 3, "{paths:?}");
    let (home, upstream) = (Home::new(), Upstream::start(Script::default()));
    let setup = Setup { settings: chat_on(&[&upstream]), ..Setup::default() };
    let server = home.serve(&setup).await;
    for path in &paths {
        assert_eq!(server.get(path).await.0, StatusCode::OK, "{path}");
    }
    let health = |server: &str| home.run(&setup, &["health", "--server", server]);
    let well = health(&server.base);
    assert!(well.status.success() && well.stdout == b"ready\n", "{well:?}");
    let base = server.base.clone();
    server.stop().await;
    let gone = health(&base);
    let said = String::from_utf8_lossy(&gone.stderr);
    assert!(!gone.status.success() && said.contains("no answerd at"), "{said}");
}

#[test]
fn who_stops_it_waits_longer_than_answers_have_to_end() {
    let shutdown = |config: &Path| {
        answerd::config::Config::load_with(Some(config), secret()).expect("settings").server.shutdown_timeout_s
    };
    // What closing takes after the answers have ended: graphs and indexes are saved.
    let closing = 10;
    for (variant, workload) in
        [("base", "base/deployment"), ("gpu", "base/deployment"), ("embedded", "embedded/statefulset")]
    {
        let workload = yaml(here(&format!("deploy/kubernetes/{workload}.yaml"))).remove(0);
        let pod = &workload["spec"]["template"]["spec"];
        let before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().expect("a pause");
        let given = pod["terminationGracePeriodSeconds"].as_u64().expect("a time");
        let needed = before + shutdown(&here(&format!("deploy/kubernetes/{variant}/config.toml"))) + closing;
        assert!(given >= needed, "{variant}: {given} s are given, {needed} s needed");
    }
    let compose = yaml(here("deploy/compose/compose.yaml")).remove(0);
    let answerd = &compose["services"]["answerd"];
    let seconds = |text: &str| text.trim_end_matches('s').parse::<u64>().expect("seconds");
    let timeout = seconds(str(answerd, "/environment/ANSWERD__SERVER__SHUTDOWN_TIMEOUT_S"));
    assert!(seconds(str(answerd, "/stop_grace_period")) >= timeout + closing);
    let unit = text(here("deploy/systemd/answerd.service"));
    let stop = between(&unit, "TimeoutStopSec=", "\n").remove(0);
    assert!(seconds(&stop) >= shutdown(&here("deploy/systemd/config.toml")) + closing);
}

#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let mut found = Vec::new();
    for variant in ["base", "embedded", "gpu"] {
        let kustomization = yaml(here(&format!("deploy/kubernetes/{variant}/kustomization.yaml"))).remove(0);
        found.push((variant, str(&kustomization, "/images/0/newTag").trim_end_matches("-cuda").to_owned()));
    }
    let compose = yaml(here("deploy/compose/compose.yaml")).remove(0);
    let image = str(&compose, "/services/answerd/image");
    found.push(("Compose", image.trim_end_matches('}').rsplit(':').next().unwrap_or_default().to_owned()));
    found.push(("Dockerfile", between(&text(here("deploy/Dockerfile")), "ARG VERSION=", "\n").remove(0)));
    assert!(found.iter().all(|(_, one)| one == version), "{version} is built: {found:?}");
}

#[test]
fn nothing_has_more_rights_than_it_needs() {
    for file in files(&["yaml"]) {
        for document in yaml(&file) {
            let name = file.display();
            for service in document["services"]
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, service)| service["image"].is_string())
            {
                let (service, settings) = service;
                assert_eq!(settings["read_only"], true, "{name}: {service}");
                assert_eq!(settings["cap_drop"], json!(["ALL"]), "{name}: {service}");
                assert_eq!(settings["security_opt"], json!(["no-new-privileges:true"]), "{name}: {service}");
                assert!(settings["deploy"]["resources"]["limits"]["memory"].is_string(), "{name}: {service}");
                let health = settings["healthcheck"]["test"].is_array() || service == "answerd";
                assert!(health, "{name}: {service}");
            }
            for pod in all(&document, "containers") {
                let container = &pod[0];
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}");
                let pod = &document["spec"]["template"]["spec"];
                assert_eq!(
                    (&pod["securityContext"]["runAsNonRoot"], &pod["automountServiceAccountToken"]),
                    (&json!(true), &json!(false)),
                    "{name}"
                );
                assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            }
        }
    }
    let dockerfile = text(here("deploy/Dockerfile"));
    let user = between(&dockerfile, "\nUSER ", "\n");
    assert!(user.iter().all(|user| user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0))), "{user:?}");
}
