//! What the configuration promises.

use super::*;
use std::collections::BTreeSet;

/// Loads `text` as a file.
fn file(text: &str) -> Result<Config, ConfigErrors> {
    load(Some(text), &[])
}

fn load(text: Option<&str>, variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    if let Some(text) = text {
        std::fs::write(&path, text).unwrap();
    }
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load_with(text.map(|_| path.as_path()), variables)
}

/// The mistakes as (line, path, message).
fn mistakes(text: &str) -> Vec<(Option<usize>, String, String)> {
    let line = |error: &ConfigError| match error.origin {
        Origin::File { line, .. } => line,
        _ => None,
    };
    file(text).unwrap_err().0.into_iter().map(|error| (line(&error), error.path, error.message)).collect()
}

fn shipped() -> (PathBuf, String) {
    // Cargo starts tests in the root of the clone.
    let path = PathBuf::from("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

fn keys(value: &toml::Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            table.iter().for_each(|(key, value)| keys(value, &format!("{path}.{key}"), into));
        }
        toml::Value::Array(entries) => entries.iter().for_each(|entry| keys(entry, &format!("{path}[]"), into)),
        _ => drop(into.insert(path.to_owned())),
    }
}

#[test]
fn the_shipped_file_says_the_defaults() {
    let (path, text) = shipped();
    let raw: Config = toml::from_str(&text).unwrap();
    assert_eq!(raw, Config::default());
    assert!(Config::load_with(Some(&path), []).is_ok());
}

#[test]
fn the_shipped_file_names_every_key_and_no_other() {
    let (_, text) = shipped();
    let (mut named, mut known) = (BTreeSet::new(), BTreeSet::new());
    keys(&text.parse::<toml::Table>().unwrap().into(), "", &mut named);
    keys(&toml::Value::try_from(Config::default()).unwrap(), "", &mut known);
    assert_eq!(named, known);
}

/// The shipped file with its examples of lists switched on.
fn with_lists() -> String {
    let (mut text, mut inside) = (String::new(), false);
    for line in shipped().1.lines() {
        let bare = line.strip_prefix("# ").filter(|bare| bare.starts_with("[[") || (inside && bare.contains(" = ")));
        inside = bare.is_some();
        text.extend([bare.unwrap_or(line), "\n"]);
    }
    text
}

/// The entries of a list in a document.
fn entries<'v>(document: &'v toml::Table, section: &str, list: &str) -> &'v [toml::Value] {
    document[section][list].as_array().expect("a list")
}

#[test]
fn the_shipped_files_lists_name_every_key_and_no_other() {
    let text = with_lists();
    let document: toml::Table = text.parse().expect("TOML");
    let known: toml::Table = toml::Table::try_from(read::with_examples()).expect("TOML");
    for (section, list, all) in [("models", "upstreams", true), ("models", "more", false), ("budgets", "more", false)] {
        let (given, known) = (&entries(&document, section, list)[0], &entries(&known, section, list)[0]);
        let names = |entry: &toml::Value| entry.as_table().expect("a table").keys().cloned().collect::<BTreeSet<_>>();
        assert!(names(given).is_subset(&names(known)), "[[{section}.{list}]]: {:?}", names(given));
        assert!(!all || names(given) == names(known), "[[{section}.{list}]]: {:?}", names(given));
    }
    // And what is shown there is right.
    file(&text).unwrap_or_else(|errors| panic!("{errors}"));
}

/// The shipped file, or what is laid over it, as an editor sees it.
fn as_json(text: &str) -> serde_json::Value {
    serde_json::to_value(text.parse::<toml::Table>().expect("TOML")).expect("JSON")
}

#[test]
fn the_schema_takes_what_is_right_and_refuses_what_is_wrong() {
    let schema = jsonschema::validator_for(&reference::schema()).expect("a schema");
    for text in [shipped().1, with_lists(), String::new()] {
        let errors: Vec<String> =
            schema.iter_errors(&as_json(&text)).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
    for (wrong, path) in [
        ("[server]\nworkers = 0", "server.workers"),
        ("[server]\nworkers = 'many'", "server.workers"),
        ("[server]\nworkerz = 3", "server.workerz"),
        ("[store]\nengine = 'sqlite'", "store.engine"),
        ("[index]\nrebuild_share = 1.5", "index.rebuild_share"),
        ("[identity.jwt]\nask = 'everybody'", "identity.jwt.ask"),
        ("[redis]\nprefix = ''", "redis.prefix"),
        ("[[folders]]\ncollection = 'x'", "folders[0].path"),
        ("[[budgets.more]]\nstreams = 1", "budgets.more[0].who"),
        ("[serch]", "serch"),
    ] {
        assert!(!schema.is_valid(&as_json(wrong)), "the schema takes {wrong:?}");
        assert_eq!(mistakes(wrong)[0].1, path, "{wrong:?}");
    }
}

#[test]
fn the_committed_descriptions_are_those_of_the_code() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let schema: serde_json::Value = serde_json::from_str(&read("docs/config.schema.json")).expect("JSON");
    let again = "write it again: answerd config";
    assert!(schema == reference::schema(), "docs/config.schema.json is not that of the code; {again} schema");
    assert!(
        read("docs/configuration.md") == reference::markdown(),
        "docs/configuration.md likewise; {again} reference"
    );
    let first = shipped().1.lines().next().unwrap_or_default().to_owned();
    assert_eq!(first, "#:schema docs/config.schema.json");
}

#[test]
fn the_reference_names_every_key_with_its_default_and_whether_it_can_be_reloaded() {
    let text = reference::markdown();
    let mut known = BTreeSet::new();
    keys(&toml::Value::try_from(read::with_examples()).unwrap(), "", &mut known);
    for path in &known {
        let key = path.trim_end_matches("[]").rsplit('.').next().unwrap_or_default();
        assert!(text.contains(&format!("| `{key}`")), "{path} is missing");
    }
    assert_eq!(text.matches("| yes |").count(), reloadable().count() - 1 + 5, "budgets.more is a list of five keys");
    for row in [
        "| `limit_max`<br>`ANSWERD__SEARCH__LIMIT_MAX` | `100` | whole number, 1 to 10_000 | yes | The most hits a caller may ask for. |",
        "| `path` | must be given | text | no | The folder. |",
        "| `min_similarity`<br>`ANSWERD__SEARCH__MIN_SIMILARITY` | `0.3` | number, -1 to 1 | yes |",
        "## [[models.upstreams]]",
        "`ANSWERD__FOLDERS`",
    ] {
        assert!(text.contains(row), "no {row:?} in\n{text}");
    }
}

#[test]
fn what_can_be_reloaded_is_a_setting() {
    let all = toml::Value::try_from(Config::default()).unwrap();
    for path in reloadable() {
        let found = path.split('.').try_fold(&all, |value, key| value.get(key));
        assert!(found.is_some() && is_reloadable(&path), "there is no {path}");
    }
    for path in ["server.bind", "data.dir", "models.more", "folders", "search.concurrency", "limit_max", ""] {
        assert!(!is_reloadable(path), "{path}");
    }
}

/// Settings from a file that changes.
fn live(text: &str) -> (tempfile::TempDir, Arc<Live>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let live = Live::new(Config::load_with(Some(&path), []).unwrap(), Some(path));
    (folder, live)
}

#[test]
fn each_setting_that_is_read_again_changes_or_is_named() {
    // Every key gets another value, one by one: what changes is what is declared, and nothing else.
    let (folder, live) = live("[models.chat]\ncontext = 16384\n");
    let path = folder.path().join("config.toml");
    let before = toml::Table::try_from(&*live.now()).unwrap();
    let mut changed = BTreeSet::new();
    for (section, key, value) in [
        ("server", "keep_alive_s", "16"),
        ("server", "workers", "3"),
        ("identity.jwt", "admin", "['ops']"),
        ("identity.jwt", "issuer", "'https://id.example.com'"),
        ("budgets", "streams", "7"),
        ("budgets", "more", "[{ who = 'group:batch', streams = 1 }]"),
        ("ingest", "max_pages", "17"),
        ("ingest", "workers", "3"),
        ("search", "limit_max", "77"),
        ("search", "concurrency", "17"),
        ("answer", "window", "65"),
        ("answer", "max_open", "4097"),
        ("cache", "ttl_s", "60"),
        ("cache", "enabled", "false"),
        ("log", "level", "'debug'"),
        ("log", "format", "'json'"),
        ("redis", "prefix", "'other'"),
        ("index", "ef_search", "65"),
    ] {
        std::fs::write(&path, format!("[models.chat]\ncontext = 16384\n[{section}]\n{key} = {value}\n")).unwrap();
        let change = live.read_again().unwrap_or_else(|errors| panic!("{errors}"));
        let place = format!("{section}.{key}");
        let wanted = if is_reloadable(&place) { &change.changed } else { &change.needs_restart };
        assert_eq!((wanted, change.changed.len() + change.needs_restart.len()), (&vec![place.clone()], 1), "{place}");
        assert_eq!(before, toml::Table::try_from(&*live.now()).unwrap(), "{place}: nothing changed yet");
        if is_reloadable(&place) {
            changed.insert(section);
        }
    }
    let sections: BTreeSet<String> =
        reloadable().filter_map(|path| Some(path.rsplit_once('.')?.0.to_owned())).collect();
    assert_eq!(changed.iter().map(|section| (*section).to_owned()).collect::<BTreeSet<_>>(), sections);
}

#[test]
fn a_change_is_taken_as_a_whole_and_those_who_asked_hear_of_it() {
    let (folder, live) = live("");
    let heard = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    live.on_change(move |config| hears.lock().push(config.search.limit_max));
    let held = live.now();
    std::fs::write(folder.path().join("config.toml"), "[search]\nlimit_max = 77\n[server]\nworkers = 3\n").unwrap();
    let change = live.read_again().unwrap();
    live.take(&change);
    assert_eq!((live.now().search.limit_max, live.now().server.workers), (77, 2));
    assert_eq!((held.search.limit_max, &*heard.lock()), (100, &vec![77]));
    // What needs a restart is named until it has had one, or is as it was.
    let again = live.read_again().unwrap();
    assert_eq!((again.changed, again.needs_restart), (vec![], vec!["server.workers".to_owned()]));
}

#[test]
fn what_would_not_fit_what_stays_is_refused() {
    let (folder, live) = live("");
    let path = folder.path().join("config.toml");
    std::fs::write(&path, "[models.chat]\ncontext = 8192\n[answer]\nevidence_tokens = 6000\n").unwrap();
    let errors = live.read_again().unwrap_err().0;
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(
        (errors[0].path.as_str(), &errors[0].origin),
        ("answer.evidence_tokens", &Origin::File { name: path.into(), line: Some(4) })
    );
    assert!(
        errors[0].message.contains("as it is in force") && errors[0].message.contains("context of 2048"),
        "{errors:?}"
    );
}

#[test]
fn the_shipped_file_explains_every_key() {
    let (_, text) = shipped();
    let lines: Vec<&str> = text.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(lines[n - 1].starts_with('#'), "no comment above {line}");
        }
    }
}

#[test]
fn the_defaults_are_without_mistakes() {
    let config = load(None, &[]).unwrap();
    assert_eq!(config.server, ServerConfig::default());
    assert!(config.data.dir.is_absolute() && config.data.dir.ends_with("data/state"));
    assert_eq!(config.data.dir, std::env::current_dir().unwrap().join("data/state"));
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let found = mistakes(
        "[server]\nbind = \"localhost\"\nworkers = 0\nworker = 3\n\n[chunking]\nmax_tokens = \"many\"\n\n\
         [models.chat]\nslots = -1\nqueue = 10\nname = \"a b\"\n\n[search]\nmin_similarity = 3.0\nslots = 2\n\n\
         [serch]\nlimit_max = 3\n",
    );
    let lines: Vec<_> = found.iter().map(|(line, path, _)| (line.unwrap(), path.as_str())).collect();
    let expected = [
        (2, "server.bind"),
        (3, "server.workers"),
        (4, "server.worker"),
        (7, "chunking.max_tokens"),
        (10, "models.chat.slots"),
        (12, "models.chat.name"),
        (15, "search.min_similarity"),
        (16, "search.slots"),
        (18, "serch"),
    ];
    assert_eq!(lines, expected);
    let says = |path: &str, part: &str| {
        let message = &found.iter().find(|(_, of, _)| of == path).unwrap().2;
        assert!(message.contains(part), "{path}: {message}");
    };
    says("server.bind", "127.0.0.1:8080");
    says("server.workers", "is 0, it must be at least 1");
    says("server.worker", "did you mean `workers`?");
    says("chunking.max_tokens", "invalid type: string \"many\", expected a whole number");
    says("models.chat.slots", "`-1`, expected a whole number");
    says("search.min_similarity", "is 3.0, it must be at most 1");
    says("search.slots", "`slots` belongs in [models.chat]");
    says("serch", "did you mean `search`?");
}

#[test]
fn mistakes_are_shown_one_a_line_with_file_and_line_number() {
    let text = file("[log]\nlevel = \"loud=yes\"\nformat = \"xml\"\n").unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "the configuration has 2 mistakes:");
    assert!(lines[1].contains("config.toml:2: log.level: "), "{text}");
    assert!(lines[2].contains("config.toml:3: log.format: unknown variant `xml`"), "{text}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn broken_toml_is_told_beside_the_other_mistakes() {
    let found = mistakes("[server]\nworkers = = 3\n\n[search]\nlimit_max = 0\n\n[search]\n");
    let lines: Vec<_> = found.iter().map(|(line, path, _)| (line.unwrap(), path.as_str())).collect();
    assert_eq!(lines, [(2, ""), (5, "search.limit_max"), (7, "")], "{found:?}");
    assert!(found[0].2.starts_with("this is not TOML: "), "{found:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let text = Config::load_with(Some(Path::new("/nowhere/answerd.toml")), []).unwrap_err().to_string();
    assert!(text.contains("/nowhere/answerd.toml: the file cannot be read: "), "{text}");
}

#[test]
fn a_variable_wins_over_the_file() {
    let given = [
        ("ANSWERD__MODELS__CHAT__SLOTS", "3"),
        ("ANSWERD__MODELS__CHAT__NAME", "42"),
        ("ANSWERD__SERVER__BIND", "[::1]:0"),
        ("ANSWERD__SEARCH__RRF_K", "7.5"),
        ("ANSWERD_SERVER", "not a setting"),
    ];
    let config = load(Some("[models.chat]\nslots = 5\nqueue = 6\n"), &given).unwrap();
    assert_eq!((config.models.chat.slots, config.models.chat.queue), (3, 6));
    assert_eq!(config.models.chat.name, "42");
    assert_eq!(config.server.bind.to_string(), "[::1]:0");
    assert_eq!(config.search.rrf_k, 7.5);
}

#[test]
fn the_folders_can_be_given_by_a_variable() {
    let list = r#"[{ path = "a", collection = "x", prefix = "a/" }, { path = "b", collection = "y", prefix = "b/" }]"#;
    let config = load(None, &[("ANSWERD__FOLDERS", list)]).unwrap();
    let names: Vec<_> = config.folders.iter().map(|folder| folder.collection.as_str()).collect();
    assert_eq!(names, ["x", "y"]);
    assert!(load(None, &[("ANSWERD__FOLDERS", "[]")]).unwrap().folders.is_empty());
}

#[test]
fn a_list_of_texts_is_taken_as_a_whole_whatever_its_default() {
    let text = "[identity.jwt]\nadmin = [\"platform\"]\nask = []\n";
    let given = [("ANSWERD__IDENTITY__JWT__WRITE", r#"["editors", "board"]"#)];
    let jwt = load(Some(text), &given).unwrap().identity.jwt;
    assert_eq!(
        (jwt.admin, jwt.ask, jwt.write),
        (vec!["platform".into()], vec![], vec!["editors".into(), "board".into()])
    );
    for wrong in ["write = \"editors\"", "write = [1]", "write = 3"] {
        let found = mistakes(&format!("[identity.jwt]\n{wrong}\n"));
        assert_eq!((found.len(), found[0].1.as_str()), (1, "identity.jwt.write"), "{found:?}");
    }
}

#[test]
fn a_mistake_in_a_variable_names_the_variable() {
    let given = [
        ("ANSWERD__MODELS__CHAT__SLOT", "3"),
        ("ANSWERD__SEARCH__LIMIT_MAX", "0"),
        ("ANSWERD__SEARCH__RRF_K", "many"),
        ("ANSWERD__SEARCH__RRF_K__X", "1"),
        ("ANSWERD__LOG", "info"),
        ("ANSWERD__FOLDERS__0__PATH", "x"),
        ("ANSWERD__INDEX__REBUILD_SHARE", "nan"),
    ];
    let text = load(Some("[search]\nlimit_max = 50\n"), &given).unwrap_err().to_string();
    for line in [
        "ANSWERD__MODELS__CHAT__SLOT: models.chat.slot: there is no such key; did you mean `slots`?",
        "ANSWERD__SEARCH__LIMIT_MAX: search.limit_max: is 0, it must be at least 1",
        "ANSWERD__SEARCH__RRF_K: search.rrf_k: invalid type: string \"many\", expected a number",
        "ANSWERD__SEARCH__RRF_K__X: search.rrf_k.x: there is nothing below this key",
        "ANSWERD__LOG: log: this is a section: set its keys one by one",
        "ANSWERD__FOLDERS__0__PATH: folders.0: an entry cannot be set by itself",
        "ANSWERD__INDEX__REBUILD_SHARE: index.rebuild_share: nan is not a finite number",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert_eq!(text.lines().count(), 1 + given.len(), "{text}");
}

#[test]
fn folders_are_checked_one_by_one() {
    let found = mistakes(
        "[[folders]]\npath = \"a\"\n\n[[folders]]\ncollection = \"Über\"\nprefix = \"x/\"\n\n\
         [[folders]]\npath = \"c\"\ncollection = \"c\"\nprefix = \"c/\"\ndebounce = 3\ndebounce_ms = \"soon\"\n",
    );
    let paths: Vec<_> = found.iter().map(|(line, path, _)| (line.unwrap(), path.as_str())).collect();
    let expected = [
        (1, "folders[0].collection"),
        (4, "folders[1].path"),
        (5, "folders[1].collection"),
        (6, "folders[1].prefix"),
        (11, "folders[2].prefix"),
        (12, "folders[2].debounce"),
        (13, "folders[2].debounce_ms"),
    ];
    assert_eq!(paths, expected, "{found:#?}");
}

#[test]
fn a_folder_takes_its_own_defaults_and_none_of_the_sample() {
    let config = file("[[folders]]\npath = \"docs\"\ncollection = \"handbook\"\n").unwrap();
    assert_eq!(config.folders.len(), 1);
    let folder = &config.folders[0];
    assert_eq!((folder.collection.as_str(), folder.prefix.as_str(), folder.debounce_ms), ("handbook", "", 300));
    assert_eq!(file("").unwrap().folders[0].collection, "sample");
    assert!(mistakes("[folders]\npath = \"a\"\n")[0].2.contains("[[folders]]"));
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let refused = |text: &str, path: &str| {
        let found = mistakes(text);
        assert_eq!(found.iter().map(|(_, path, _)| path.as_str()).collect::<Vec<_>>(), [path], "{found:?}");
        assert!(found[0].0.is_some(), "{found:?}");
    };
    refused("[chunking]\noverlap_tokens = 100", "chunking.overlap_tokens");
    refused("[chunking]\nmax_tokens = 60", "chunking.max_tokens");
    refused("[chunking]\nmax_tokens = 201", "chunking.max_tokens");
    refused("[search]\nlimit_default = 101", "search.limit_default");
    refused("[search]\nlimit_max = 9", "search.limit_max");
    refused("[search]\nlexical_weight = 0\nvector_weight = 0.0", "search.vector_weight");
    refused("[index]\nef_construction = 15", "index.ef_construction");
    refused("[models.chat]\nbatch_tokens = 16\nslots = 17", "models.chat.batch_tokens");
    refused("[models.chat]\ncontext = 1447", "models.chat.context");
    refused("[answer]\nmax_output_tokens = 9223372036854775807", "answer.max_output_tokens");
    refused("[actors]\nrestart_backoff_ms = 20000", "actors.restart_backoff_ms");
    refused(
        "folders = [{ path = 'a', collection = 'a' }, { path = 'b', collection = 'b', prefix = 'b/' }]",
        "folders[1].prefix",
    );
    assert!(file("[models.chat]\ncontext = 1448").is_ok());
}

#[test]
fn a_value_that_is_wrong_already_is_not_blamed_twice() {
    let found = mistakes("[models.chat]\ncontext = \"small\"\n[answer]\nevidence_tokens = 5000\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].1, "models.chat.context");
}

#[test]
fn a_relative_path_is_relative_to_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answerd.toml");
    std::fs::write(&path, "[data]\ndir = \"state\"\n[models.chat]\npath = \"/models/chat.gguf\"\n").unwrap();
    let config = Config::load_with(Some(&path), []).unwrap();
    assert_eq!(config.data.dir, folder.path().join("state"));
    assert_eq!(config.folders[0].path, folder.path().join("data/sample"));
    assert_eq!(config.models.chat.path, Path::new("/models/chat.gguf"));
    let home = std::env::home_dir().unwrap();
    assert_eq!(config.embedding.model, home.join(".cache/answerd/models/all-MiniLM-L6-v2"));
}

#[test]
fn a_variable_may_name_a_file_that_holds_its_value() {
    let folder = tempfile::tempdir().unwrap();
    let holding = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (secret, slots) = (holding("secret", " s3cret #=\n"), holding("slots", "4\r\n"));
    let given = [("ANSWERD__NATS__TOKEN__FILE", &*secret), ("ANSWERD__MODELS__CHAT__SLOTS__FILE", &*slots)];
    let config = load(None, &given).unwrap();
    assert_eq!((config.nats.token.as_str(), config.models.chat.slots), (" s3cret #=", 4));

    let wrong = [
        ("ANSWERD__REDIS__URL__FILE", "/nowhere/redis_url"),
        ("ANSWERD__NATS__TOKEN__FILE", &*secret),
        ("ANSWERD__NATS__TOKEN", "another"),
        ("ANSWERD__MODELS__CHAT__SLOTS__FILE", &*secret),
    ];
    let told = load(None, &wrong).unwrap_err().to_string();
    let lines: Vec<&str> = told.lines().skip(1).map(str::trim).collect();
    assert_eq!(lines.len(), 3, "{told}");
    assert!(lines[0].starts_with("ANSWERD__MODELS__CHAT__SLOTS: models.chat.slots: "), "{told}");
    assert!(lines[1].starts_with("ANSWERD__NATS__TOKEN__FILE: ANSWERD__NATS__TOKEN is given, too"), "{told}");
    assert!(lines[2].starts_with("ANSWERD__REDIS__URL__FILE: the file /nowhere/redis_url cannot be read: "), "{told}");
}
