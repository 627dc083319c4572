//! `info`: adapters, and what would run on them.

use crate::support::Folder;
use serde_json::Value;

#[test]
fn the_adapter_is_listed_with_what_it_would_run() {
    let ended = Folder::new().tool_with_adapter(&["info"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    for words in ["\n* ", "features", "workgroup", "buffer", " would compute:", "kernel", "forward"]
    {
        assert!(ended.stdout.contains(words), "{words:?}: {}", ended.stdout);
    }
}

#[test]
fn json_names_adapters_kernels_and_plans() {
    let ended = Folder::new().tool_with_adapter(&["info", "--json"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let info: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["computes"], "gpu");
    let adapters = info["adapters"].as_array().expect("adapters");
    let chosen: Vec<_> = adapters.iter().filter(|one| one["chosen"] == true).collect();
    assert_eq!(chosen.len(), 1, "{info:#}");
    assert!(chosen[0]["name"].as_str().is_some_and(|name| !name.is_empty()), "{info:#}");
    assert!(chosen[0]["features"]["subgroups"].is_boolean(), "{info:#}");
    assert!(chosen[0]["limits"]["storage_buffers"].as_u64() >= Some(8), "{info:#}");
    let kernels = info["kernels"].as_array().expect("kernels");
    for name in ["forward", "forward-wide", "three-stage"] {
        assert!(kernels.iter().any(|kernel| kernel == name), "{name}: {info:#}");
    }
    let plans = info["plans"].as_array().expect("plans");
    assert!(!plans.is_empty());
    for plan in plans {
        assert!(kernels.contains(&plan["kernel"]), "{plan:#}");
        assert!(plan["reason"].is_string() && plan["plan"].is_string(), "{plan:#}");
    }
}

#[test]
fn without_an_adapter_the_cpu_would_compute() {
    let folder = Folder::new();
    for device in [["--device", "cpu"], ["--adapter", "no such adapter"]] {
        let ended = folder.tool(&[&["info"][..], &device].concat());
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        assert!(ended.stdout.contains("CPU reference would compute"), "{ended:?}");
        let ended = folder.tool(&[&["info", "--json"][..], &device].concat());
        let info: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!(info["computes"], "cpu");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_exit_3() {
    for json in [&[][..], &["--json"]] {
        let args = ["info", "--device", "gpu", "--adapter", "no such adapter"];
        let ended = Folder::new().tool(&[&args[..], json].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
}
