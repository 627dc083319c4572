//! `check`: a table or JSON of every kernel, on whatever adapter there is.

use crate::support::Folder;
use serde_json::Value;

#[test]
fn this_adapter_passes_and_every_kernel_was_tried() {
    let folder = Folder::new();
    let ended = folder.tool_with_adapter(&["check", "--quick", "--json"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(report["passed"], true, "{report:#}");
    assert!(report["adapter"].as_str().is_some_and(|name| !name.is_empty()));
    let rows = report["rows"].as_array().expect("rows");
    // Whatever limits it was held to.
    let kernel = |row: &Value| {
        row["kernel"].as_str().and_then(|name| name.split(", ").next()).map(str::to_owned)
    };
    let tried: Vec<_> = rows.iter().filter_map(kernel).collect();
    for kernel in ["forward", "forward-wide", "decode", "three-stage"] {
        assert!(tried.iter().any(|name| name == kernel), "{kernel}: {report:#}");
    }
    for row in rows {
        assert_eq!(row["failure"], Value::Null);
        for error in ["max_relative", "frobenius"] {
            let [found, bound] = [&row[error], &row["bound"][error]].map(Value::as_f64);
            assert!(found.is_some() && found <= bound, "{error}: {row}");
        }
    }
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn without_an_adapter_nothing_is_checked() {
    let folder = Folder::new();
    for more in [&[][..], &["--device", "gpu"]] {
        let args = ["check", "--json", "--adapter", "no such adapter"];
        let ended = folder.tool(&[&args[..], more].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains("no such adapter"), "{ended:?}");
    }
}
