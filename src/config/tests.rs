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
