use super::*;
use crate::bpf::OffcpuRung;

fn flags(line: &str) -> Settings {
    let words = std::iter::once("profiler-agent").chain(line.split_whitespace());
    Args::try_parse_from(words).unwrap().settings
}

fn file(text: &str) -> Result<Settings, ConfigError> {
    parse_file(Path::new("agent.toml"), text)
}

fn build(line: &str, rust_log: Option<&str>, text: &str) -> Result<Config, ConfigError> {
    Config::build(flags(line), rust_log, file(text)?)
}

#[test]
fn defaults() {
    let config = build("", None, "").unwrap();
    assert_eq!(
        config.socket.as_path(),
        Path::new("/run/profiler/agent.sock")
    );
    assert_eq!(config.socket_group, None);
    assert_eq!(config.tcp, None);
    assert_eq!(config.max_sessions.get(), 4);
    assert_eq!(config.session.load.ring_bytes, 1 << 20);
    assert_eq!(config.session.max_samples, 400_000);
    assert_eq!(config.session.load.offcpu_rung, None);
    let symbols = config.session.symbols.settings();
    assert_eq!(symbols.cache_bytes, 256 << 20);
    assert_eq!(symbols.debug_bytes, 512 << 20);
    assert_eq!(symbols.debuginfod_urls, [] as [String; 0]);
    assert_eq!(config.log.as_str(), "info");
}

#[test]
fn a_flag_wins_over_the_file() {
    let text = "max_sessions = 2\nring_bytes = 65536\noffcpu_rung = \"kprobe\"";
    let config = build("--max-sessions 7 --offcpu-rung switch-out", None, text).unwrap();
    assert_eq!(config.max_sessions.get(), 7);
    assert_eq!(config.session.load.ring_bytes, 65536);
    assert_eq!(config.session.load.offcpu_rung, Some(OffcpuRung::SwitchOut));
}

#[test]
fn the_environment_is_between_flag_and_file() {
    let log = |line, rust_log| build(line, rust_log, "log = \"warn\"").unwrap().log;
    assert_eq!(log("", None).as_str(), "warn");
    assert_eq!(log("", Some("")).as_str(), "warn");
    assert_eq!(log("", Some("hyper,debug")).as_str(), "hyper,debug");
    assert_eq!(log("--log error", Some("debug")).as_str(), "error");
    let error = build("", Some("a=loud"), "").unwrap_err().to_string();
    assert!(
        error.starts_with("environment variable RUST_LOG: `a=loud`"),
        "{error}"
    );
}

#[test]
fn errors_name_file_line_and_key() {
    let cases = [
        (
            "# first\nsokcet = \"/x\"",
            2,
            "sokcet",
            "unknown field `sokcet`",
        ),
        (
            "\n\nring_bytes = 1000",
            3,
            "ring_bytes = 1000",
            "`1000` is not a power",
        ),
        (
            "max_sessions = 0",
            1,
            "max_sessions",
            "whole number from 1 to 64",
        ),
        ("max_samples = -5", 1, "max_samples", "integer"),
        ("log = 'x'\nlog = 'y'", 2, "log", "duplicate"),
        ("socket = \"agent.sock\"", 1, "socket", "absolute"),
        (
            "\noffcpu_rung = \"best\"",
            2,
            "offcpu_rung",
            "auto, sched_exit_tp",
        ),
        ("listen = \"localhost\"", 1, "listen", "socket address"),
        ("max_sessions = ", 1, "max_sessions", "expected"),
    ];
    for (text, line, key, expected) in cases {
        let error = file(text).unwrap_err().to_string();
        let start = format!("agent.toml, line {line}: `{key}");
        assert!(
            error.starts_with(&start),
            "{error} does not start with {start}"
        );
        assert!(error.contains(expected), "{error} does not say {expected}");
    }
}

#[test]
fn wrong_flags_are_refused() {
    for line in [
        "--ring-bytes 1000",
        "--max-sessions 0",
        "--offcpu-rung best",
        "--listen localhost",
        "--socket agent.sock",
        "--log inof",
        "--no-such-flag",
    ] {
        let words = std::iter::once("profiler-agent").chain(line.split_whitespace());
        assert_eq!(
            Args::try_parse_from(words).unwrap_err().exit_code(),
            2,
            "{line}"
        );
    }
}

#[test]
fn tcp_is_never_plain() {
    let error = |line| build(line, None, "").unwrap_err().to_string();
    assert_eq!(
        error("--listen 127.0.0.1:7464"),
        "listen is set without tls_cert and tls_key and tls_client_ca; \
         the agent serves TCP only with mutual TLS"
    );
    let without_ca = error("--listen 127.0.0.1:7464 --tls-cert c --tls-key k");
    assert!(without_ca.starts_with("listen is set without tls_client_ca;"));
    assert_eq!(
        error("--tls-cert c --tls-key k"),
        "tls_cert and tls_key are set without listen; certificates are for TCP only"
    );
    let line = "--listen [::]:7464 --tls-cert c --tls-key k";
    let config = build(line, None, "tls_client_ca = \"ca\"").unwrap();
    assert_eq!(config.tcp.unwrap().tls.client_ca, Path::new("ca"));
}

#[test]
fn a_child_does_not_listen_where_the_hosts_own_agent_does() {
    let text = "socket = '/own'\nlisten = '[::]:1'\nsocket_group = 'no-such-group'\n\
                tls_cert = 'c'\ntls_key = 'k'\ntls_client_ca = 'ca'\nmax_sessions = 9";
    let file = file(text).unwrap().for_the_parent_alone();
    let config = Config::build(flags("--socket /private"), None, file).unwrap();
    assert_eq!(config.socket.as_path(), Path::new("/private"));
    assert_eq!((config.tcp, config.socket_group), (None, None));
    assert_eq!(config.max_sessions.get(), 9);
}

#[test]
fn a_group_must_be_there() {
    let error = build("--socket-group no-such-group", None, "").unwrap_err();
    assert!(matches!(error, ConfigError::NoSuchGroup(_)), "{error}");
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let error = read_file(Some(Path::new("/no/agent.toml"))).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read /no/agent.toml: ")
    );
}

#[test]
fn the_example_file_says_the_defaults() {
    let example = include_str!("../../../packaging/agent.toml");
    let config = build("", None, example).unwrap();
    let default = build("", None, "").unwrap();
    assert_eq!(format!("{config:?}"), format!("{default:?}"));
}

#[test]
fn the_example_file_has_every_key_and_its_commented_out_ones_are_valid() {
    let example = include_str!("../../../packaging/agent.toml");
    let uncommented: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let settings = format!("{:?}", file(&uncommented).unwrap());
    assert!(!settings.contains(": None"), "{settings}");
}

#[test]
fn help_is_consistent() {
    use clap::CommandFactory;
    Args::command().debug_assert();
}

#[test]
fn where_names_come_from_and_go_to() {
    let text =
        "cache_dir = \"\"\ncache_bytes = 1048576\ndebuginfod_urls = [\"https://a/\", \"http://b\"]";
    let config = build("--debug-bytes 0", None, text).unwrap();
    let symbols = config.session.symbols.settings();
    assert_eq!(symbols.cache_dir, None);
    assert_eq!(symbols.cache_bytes, 1 << 20);
    assert_eq!(symbols.debug_bytes, 0);
    assert_eq!(symbols.debuginfod_urls, ["https://a", "http://b"]);
    let flags = "--cache-dir /c --debuginfod-url https://x --debuginfod-url https://y";
    let config = build(flags, None, text).unwrap();
    let symbols = config.session.symbols.settings();
    assert_eq!(symbols.cache_dir.as_deref(), Some(Path::new("/c")));
    assert_eq!(symbols.debuginfod_urls, ["https://x", "https://y"]);
}
