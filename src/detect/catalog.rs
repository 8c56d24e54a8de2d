//! The detectors that there are: the built-in ones and those of the folder in the config, each compiled
//! before anything runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{DataFusionError, ParamValues};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

use super::everybody::{OfEverybody, PACE, pace_schema};
use super::file::{Detector, DetectorError, DetectorFile, Scope};
use super::tables::WINDOWED;
use crate::config::suggest::did_you_mean;
use crate::config::{Config, Mode};
use crate::engine::{self, Engine};
use crate::rows;

/// Every built-in detector: name and text. A test compares it with the folder.
const BUILT_IN: [(&str, &str); 16] = [
    ("concurrent_networks", include_str!("../../queries/detectors/concurrent_networks.sql")),
    ("country_hops", include_str!("../../queries/detectors/country_hops.sql")),
    ("country_overlap", include_str!("../../queries/detectors/country_overlap.sql")),
    ("foreign_referer", include_str!("../../queries/detectors/foreign_referer.sql")),
    ("hosting_asn", include_str!("../../queries/detectors/hosting_asn.sql")),
    ("impossible_travel", include_str!("../../queries/detectors/impossible_travel.sql")),
    ("leaked_token", include_str!("../../queries/detectors/leaked_token.sql")),
    ("line_churn", include_str!("../../queries/detectors/line_churn.sql")),
    ("many_countries", include_str!("../../queries/detectors/many_countries.sql")),
    ("many_ips", include_str!("../../queries/detectors/many_ips.sql")),
    ("many_user_agents", include_str!("../../queries/detectors/many_user_agents.sql")),
    ("media_overrun", include_str!("../../queries/detectors/media_overrun.sql")),
    ("network_fanout", include_str!("../../queries/detectors/network_fanout.sql")),
    ("same_segment", include_str!("../../queries/detectors/same_segment.sql")),
    ("secure_media_score", include_str!("../../queries/detectors/secure_media_score.sql")),
    ("token_farm", include_str!("../../queries/detectors/token_farm.sql")),
];

/// Lists that there are whether the config has them or not, then empty.
const KNOWN_LISTS: [&str; 1] = [OWN_REFERERS];

/// The list of one's own sites and of partners'.
pub const OWN_REFERERS: &str = "own_referers";

/// Why the detectors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("[detect] queries: cannot read {path}: {source}")]
    Folder { path: String, source: std::io::Error },
    #[error(transparent)]
    Detector(#[from] DetectorError),
    #[error("[detectors.{name}]: {message}")]
    Settings { name: String, message: String },
    #[error("[detectors.{name}]: {message}")]
    Unknown { name: String, message: String },
}

/// Loads and compiles the detectors of a config, in order of their names. Those in mode `off` are compiled
/// too, so that switching one on cannot break a run, but not returned.
pub async fn load(config: &Config, engine: &Engine) -> Result<Vec<Detector>, CatalogError> {
    let mut files = BTreeMap::new();
    for (name, text) in BUILT_IN {
        files.insert(name.to_owned(), DetectorFile::parse(name, &format!("queries/detectors/{name}.sql"), text)?);
    }
    if let Some(folder) = &config.detect.queries {
        for file in read_folder(folder)? {
            let file = file?;
            if files.contains_key(&file.name) {
                let message = format!("there is a detector {} already; choose another name", file.name);
                return Err(DetectorError { path: file.path, line: 1, message }.into());
            }
            files.insert(file.name.clone(), file);
        }
    }
    if let Some(name) = config.detectors.keys().find(|name| !files.contains_key(*name)) {
        let known: Vec<&str> = files.keys().map(String::as_str).collect();
        let message = format!("there is no such detector; there are {}", known.join(", "));
        return Err(CatalogError::Unknown { name: name.clone(), message: did_you_mean(message, name, known) });
    }
    let mut detectors = Vec::new();
    for file in files.values() {
        let settings = config.detectors.get(&file.name).cloned().unwrap_or_default();
        let mut detector = file
            .with_settings(&settings)
            .map_err(|message| CatalogError::Settings { name: file.name.clone(), message })?;
        detector.tables = match is_built_in(&file.name) {
            // A test has compiled them.
            true => tables_of(&engine.session(), &file.sql).map_err(|error| DetectorError {
                path: file.path.clone(),
                line: line_of(&error, file),
                message: first_line(&error),
            })?,
            false => compile(file, &detector, engine, &config.lists).await?,
        };
        if detector.mode != Mode::Off {
            detectors.push(detector);
        }
    }
    Ok(detectors)
}

fn read_folder(folder: &Path) -> Result<Vec<Result<DetectorFile, DetectorError>>, CatalogError> {
    let unreadable = |source| CatalogError::Folder { path: folder.display().to_string(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|ending| ending == "sql") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path)
            .map_err(|source| CatalogError::Folder { path: path.display().to_string(), source })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        files.push(DetectorFile::parse(&name, &path.display().to_string(), &text));
    }
    Ok(files)
}

/// Whether a detector comes with the program.
pub fn is_built_in(name: &str) -> bool {
    BUILT_IN.iter().any(|(built_in, _)| *built_in == name)
}

/// Registers each list as a table with one column `value`.
pub fn register_lists(session: &SessionContext, lists: &BTreeMap<String, Vec<String>>) -> Result<(), DataFusionError> {
    let known = KNOWN_LISTS.into_iter().filter(|name| !lists.contains_key(*name)).map(|name| (name, &[][..]));
    for (name, values) in lists.iter().map(|(name, values)| (name.as_str(), values.as_slice())).chain(known) {
        let batch = rows::texts_batch("value", values);
        session.register_table(name, Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))?;
    }
    Ok(())
}

/// Plans a detector's SELECT over the tables of a session, its parameters bound.
pub async fn plan(session: &SessionContext, detector: &Detector) -> Result<DataFrame, DataFusionError> {
    if !is_built_in(&detector.name) {
        engine::optimize_fully(session);
    }
    let frame = engine::select(session, &detector.sql).await?;
    let parameters = detector.parameters();
    if parameters.is_empty() { Ok(frame) } else { frame.with_param_values(ParamValues::from(parameters)) }
}

/// Compiles a detector over empty tables, as far as a run would. Gives the tables that it reads.
async fn compile(
    file: &DetectorFile,
    detector: &Detector,
    engine: &Engine,
    lists: &BTreeMap<String, Vec<String>>,
) -> Result<BTreeSet<String>, DetectorError> {
    let refuse = |line: u64, message: String| DetectorError { path: file.path.clone(), line, message };
    let broken = |error: DataFusionError| refuse(line_of(&error, file), first_line(&error));
    let session = engine.session();
    for (_, table) in WINDOWED {
        let empty = MemTable::try_new(table.schema().public(), vec![vec![]]).map_err(broken)?;
        session.register_table(table.name(), Arc::new(empty)).map_err(broken)?;
    }
    let of_everybody: Vec<(&str, SchemaRef)> = OfEverybody::ALL
        .map(|table| (table.name(), table.schema()))
        .into_iter()
        .chain([(PACE, pace_schema())])
        .collect();
    for (name, schema) in &of_everybody {
        let empty = MemTable::try_new(schema.clone(), vec![vec![]]).map_err(broken)?;
        session.register_table(*name, Arc::new(empty)).map_err(broken)?;
    }
    register_lists(&session, lists).map_err(broken)?;

    let frame = engine::select(&session, &file.sql).await.map_err(broken)?;
    let read = tables_of(&session, &file.sql).map_err(broken)?;
    if detector.scope != Scope::All
        && let Some((name, _)) = of_everybody.iter().find(|(name, _)| read.contains(*name))
    {
        let message = format!("the table {name} depends on all sessions: the header must say scope = \"all\"");
        return Err(refuse(file.line_of(name), message));
    }
    let mut used: Vec<String> = frame.logical_plan().get_parameter_names().map_err(broken)?.into_iter().collect();
    used.sort();
    for parameter in used {
        let name = parameter.trim_start_matches('$');
        if !detector.params.contains_key(name) {
            let known = detector.params.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let message = format!("unknown parameter ${name}: the header's [params] has {known}");
            return Err(refuse(file.line_of(&format!("${name}")), message));
        }
    }
    let frame = plan(&session, detector).await.map_err(broken)?;
    let schema = frame.schema().as_arrow().clone();
    for (column, fits) in [
        (
            "session_id",
            &(|t: &DataType| matches!(t, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8))
                as &dyn Fn(&DataType) -> bool,
        ),
        ("score", &DataType::is_numeric),
    ] {
        match schema.field_with_name(column) {
            Err(_) => return Err(refuse(file.statement_line(), format!("the result has no column {column}"))),
            Ok(field) if !fits(field.data_type()) => {
                return Err(refuse(
                    file.statement_line(),
                    format!("the column {column} of the result has the type {}", field.data_type()),
                ));
            }
            Ok(_) => {}
        }
    }
    if let Some(column) = detector.thresholds.keys().find(|column| schema.field_with_name(column).is_err()) {
        return Err(refuse(1, format!("[thresholds] names {column}, which is no column of the result")));
    }
    // Types are checked and functions resolved when the plan is made; an empty run shows the rest.
    frame.collect().await.map_err(broken)?;
    Ok(read)
}

/// The tables that a statement names.
fn tables_of(session: &SessionContext, sql: &str) -> Result<BTreeSet<String>, DataFusionError> {
    let state = session.state();
    let statement = state.sql_to_statement(sql, &state.config_options().sql_parser.dialect)?;
    let references = state.resolve_table_references(&statement)?;
    Ok(references.into_iter().map(|reference| reference.table().to_owned()).collect())
}

/// The line of the file that an error is about; the first line of the statement where it does not tell.
fn line_of(error: &DataFusionError, file: &DetectorFile) -> u64 {
    if let Some(span) = error.diagnostic().and_then(|diagnostic| diagnostic.span) {
        return span.start.line;
    }
    // Syntax errors carry their place in the text only, and none at the end of the file.
    let text = error.to_string();
    if text.contains("found: EOF") {
        return file.sql.trim_end().lines().count() as u64;
    }
    let told = text
        .split_once("Line: ")
        .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok());
    told.unwrap_or_else(|| file.statement_line())
}

fn first_line(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "-- [detector]\n-- description = \"d\"\n-- family = \"f\"\n-- strength = \"medium\"\n-- window = \"30m\"\n-- every = \"5m\"\n-- ttl = \"1h\"\n-- scope = \"session\"\n-- false_positives = \"none\"\n-- [params]\n-- most = 3\n";

    async fn compiled(sql: &str) -> Result<BTreeSet<String>, DetectorError> {
        let file = DetectorFile::parse("mine", "mine.sql", &format!("{HEADER}{sql}\n")).unwrap();
        let detector = file.with_settings(&Default::default()).unwrap();
        let lists = BTreeMap::from([("own_referers".to_owned(), vec!["example.com".to_owned()])]);
        compile(&file, &detector, &Engine::new(&Default::default()).unwrap(), &lists).await
    }

    #[test]
    fn the_list_of_built_in_detectors_is_that_of_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/queries/detectors");
        let mut found: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        found.sort();
        assert_eq!(found, BUILT_IN.map(|(name, _)| name));
    }

    #[tokio::test]
    async fn the_built_in_detectors_compile() {
        let engine = Engine::new(&Default::default()).unwrap();
        for (name, text) in BUILT_IN {
            let file = DetectorFile::parse(name, name, text).unwrap();
            let detector = file.with_settings(&Default::default()).unwrap();
            let tables = compile(&file, &detector, &engine, &BTreeMap::new()).await.unwrap();
            assert_eq!(tables, tables_of(&engine.session(), text).unwrap());
        }
    }

    #[tokio::test]
    async fn a_good_detector_compiles_and_sees_the_lists() {
        compiled("SELECT session_id, COUNT(*) * 1.0 / $most AS score FROM activity\nWHERE referer_host NOT IN (SELECT value FROM own_referers)\nGROUP BY session_id")
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_broken_detector_is_refused_with_its_line() {
        for (sql, line, part) in [
            ("SELECT session_id,\n  1.0 AS score\nFROM activity WHERE (", 14, ""),
            ("SELECT session_id, 1.0 AS score\nFROM activity\nWHERE adress = 'x'", 14, "adress"),
            ("SELECT session_id, 1.0 AS score\nFROM activity\nWHERE requests > $least", 14, "$least"),
            ("SELECT session_id, 1.0 AS score FROM requests", 12, "requests"),
            ("SELECT session_id, 1.0 AS score FROM activity; SELECT 1", 12, ""),
            ("DROP TABLE activity", 12, ""),
            ("INSERT INTO activity SELECT * FROM activity", 12, ""),
            ("COPY activity TO 'x.csv'", 12, ""),
            ("SELECT session_id FROM activity", 12, "score"),
            ("SELECT session_id, 'high' AS score FROM activity", 12, "score"),
            ("SELECT 1.0 AS score FROM activity", 12, "session_id"),
            ("SELECT session_id, nofunction(1) AS score FROM activity", 12, "nofunction"),
            ("SELECT * FROM '/etc/passwd'", 12, ""),
            ("SELECT session_id,\n  segments_per_minute AS score\nFROM pace", 14, "scope = \"all\""),
            ("SELECT referer_host AS session_id, sessions AS score\nFROM referer_hosts", 13, "scope = \"all\""),
        ] {
            let error = compiled(sql).await.expect_err(sql);
            assert!(error.message.contains(part), "{sql}: {error}");
            assert_eq!(error.line, line, "{sql}: {error}");
        }
    }
}
