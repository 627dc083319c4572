//! What a real GPU's compiler makes of the kernels of wgpu-attention, without the GPU.

mod cases;
mod driver;
mod isa;
mod model;
mod spirv;

use cases::Work;
use clap::Parser;
use driver::{Compiled, Driver};
use isa::{Code, Mix};
use model::Family;
use serde_json::{Value, json};
use spirv::Translation;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compiles kernels for GPUs that are not there, and tells what became of them.
#[derive(Parser)]
struct Arguments {
    /// Cases to compile, by a part of their name; all if neither these nor files are given. `list` lists them.
    cases: Vec<String>,
    /// Shaders to compile in place of the library's.
    #[arg(long, short, value_name = "FILE", num_args = 1..)]
    wgsl: Vec<PathBuf>,
    /// GPUs, as RADV_FORCE_FAMILY has them.
    #[arg(long, short, value_delimiter = ',', default_value = "navi21,navi31,gfx1201")]
    family: Vec<String>,
    /// The whole assembly.
    #[arg(long)]
    asm: bool,
    /// How often each instruction stands in the hottest loop, rare branches and loops inside included.
    #[arg(long)]
    hot: bool,
    /// Every loop, and not only the hottest.
    #[arg(long)]
    loops: bool,
    /// All statistics that the driver has.
    #[arg(long)]
    all: bool,
    /// What the driver made of it on the way, by a part of its name: NIR, ACO.
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Turns of loops, by their numbers in --loops, as `1=16,2=8`: the estimate is then of those together.
    #[arg(long, value_delimiter = ',')]
    turns: Vec<String>,
    /// Multiply-adds of an invocation in these loops that are work; those that are found if not given.
    #[arg(long)]
    macs: Option<f64>,
    /// Indices without clamps, divisions without checks.
    #[arg(long)]
    unchecked: bool,
    /// Loops with a counter that bounds them, which is wgpu's default and not the library's.
    #[arg(long)]
    bounded: bool,
    /// Buffers clamped by the shader, as without robustBufferAccess2.
    #[arg(long)]
    clamp_buffers: bool,
    /// A device opened without subgroups.
    #[arg(long)]
    no_subgroups: bool,
    /// Tiles, as `wgpu-attention tune` prints them.
    #[arg(long, value_name = "FILE")]
    tuning: Option<PathBuf>,
    /// Bytes of workgroup memory of the device.
    #[arg(long)]
    workgroup_memory: Option<u32>,
    /// The WGSL of the cases.
    #[arg(long)]
    print_wgsl: bool,
    /// One line for each, to be pasted into a table.
    #[arg(long)]
    table: bool,
    /// One JSON object a line for each.
    #[arg(long)]
    json: bool,
    /// What --json printed before: fails where registers spill, or a rate has fallen by more than 2 %.
    #[arg(long, value_name = "FILE")]
    least: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("isa-lab: {failed} cases failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("isa-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How many cases failed without an excuse.
fn run(arguments: &Arguments) -> Result<usize, String> {
    if arguments.table {
        println!("{TABLE_HEAD}");
    }
    let mut failed = 0;
    for name in &arguments.family {
        let family = Family::find(name).ok_or_else(|| {
            let known: Vec<_> = model::FAMILIES.iter().map(|family| family.name).collect();
            format!("--family: expected one of {}, found {name}", known.join(", "))
        })?;
        let subjects = subjects(arguments, family)?;
        if arguments.cases.iter().any(|case| case == "list") {
            for Subject { name, shader } in subjects {
                match shader {
                    Ok(shader) => println!("{name}: {}", shader.variant),
                    Err(error) => println!("{name}: {error}"),
                }
            }
            continue;
        }
        // SAFETY: no other thread runs yet; the driver reads it when it is loaded.
        unsafe { std::env::set_var("RADV_FORCE_FAMILY", name) };
        let driver = Driver::open()?;
        if !arguments.table && !arguments.json {
            println!("## {} ({}): {}", family.name, family.what, driver.name);
            if arguments.all {
                println!("matrices: {}", driver.matrix_sizes.join(", "));
            }
        }
        for subject in subjects {
            if let (true, Ok(shader)) = (arguments.print_wgsl, &subject.shader) {
                println!("{}", shader.text);
                continue;
            }
            let Err(error) = compile(arguments, family, &driver, &subject) else { continue };
            let is_excused = cases::EXCUSED.contains(&(family.name, subject.name.as_str()));
            failed += usize::from(!is_excused);
            let excuse = if is_excused { ", which is known" } else { "" };
            match (arguments.json, arguments.table) {
                (true, _) => {
                    let case = &subject.name;
                    println!("{}", json!({ "case": case, "family": family.name, "error": error }));
                }
                (_, true) => println!("| {} | {} | {error}{excuse} |", subject.name, family.name),
                _ => println!("\n### {}\nerror: {error}{excuse}", subject.name),
            }
        }
    }
    Ok(failed)
}

/// Compiles a shader and tells what became of it.
fn compile(
    arguments: &Arguments,
    family: &Family,
    driver: &Driver,
    Subject { name, shader }: &Subject,
) -> Result<(), String> {
    let shader = shader.as_ref().map_err(String::clone)?;
    let translation = Translation {
        unchecked: arguments.unchecked,
        bounded: arguments.bounded,
        clamp_buffers: arguments.clamp_buffers,
    };
    let module = spirv::translate(&shader.text, None, translation)?;
    if module.matrices && !driver.matrices {
        return Err("this driver has no cooperative matrices for it".to_owned());
    }
    let compiled = driver.compile(&module, !arguments.no_subgroups)?;
    report(arguments, family, name, shader, &module, &compiled)
}

/// A shader and what it is called, or why there is none.
struct Subject {
    name: String,
    shader: Result<Shader, String>,
}

struct Shader {
    /// Name of the entry point, and of the variant.
    kernel: String,
    variant: String,
    text: String,
    work: Option<Work>,
}

fn subjects(arguments: &Arguments, family: &Family) -> Result<Vec<Subject>, String> {
    let mut subjects = Vec::new();
    for path in &arguments.wgsl {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (kernel, variant) = (name.clone(), String::new());
        let shader = Ok(Shader { kernel, variant, text, work: None });
        subjects.push(Subject { name, shader });
    }
    if !arguments.wgsl.is_empty() && arguments.cases.is_empty() {
        return Ok(subjects);
    }
    let tuning = match &arguments.tuning {
        None => wgpu_attention::Tuning::default(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|e| format!("{}: {e}", path.display()))?
            .parse()
            .map_err(|e| format!("{}: {e}", path.display()))?,
    };
    let mut capabilities = cases::capabilities(family);
    if let Some(bytes) = arguments.workgroup_memory {
        capabilities.workgroup_memory = bytes;
    }
    let wanted = |name: &str| {
        let all = arguments.cases.is_empty() || arguments.cases.iter().any(|case| case == "list");
        all || arguments.cases.iter().any(|case| name.contains(case.as_str()))
    };
    for case in cases::cases(&capabilities, &tuning)? {
        if !wanted(case.name) {
            continue;
        }
        let shaders = match case.shaders {
            Ok(shaders) => shaders,
            Err(error) => {
                subjects.push(Subject { name: case.name.to_owned(), shader: Err(error) });
                continue;
            }
        };
        let is_one = shaders.len() == 1;
        for cases::Shader { variant, work } in shaders {
            let kernel = variant.entry.name().to_owned();
            let name = match is_one {
                true => case.name.to_owned(),
                false => format!("{}/{kernel}", case.name),
            };
            let text = wgpu_attention::internal::assemble(&variant);
            let shader = Ok(Shader { kernel, variant: variant.to_string(), text, work });
            subjects.push(Subject { name, shader });
        }
    }
    if subjects.is_empty() {
        let found = arguments.cases.join(", ");
        return Err(format!(
            "CASE: expected a part of a case's name, as `list` has them, found {found}"
        ));
    }
    Ok(subjects)
}

/// Multiply-adds of a matrix instruction.
const MACS_OF_MATRIX: f64 = 16.0 * 16.0 * 16.0;

/// The loops of a tile of keys, by number, and how many turns each takes: one over tiles, and if
/// there are chunks one over them inside of it, whose multiply-adds together are the work.
fn loops_of_tile(code: &Code, work: Work, wave: u32) -> Result<Vec<(usize, u32)>, String> {
    // Of a matrix a wave's invocations multiply a share each.
    let macs = |at: usize| {
        let path = &code.loops[at].path;
        f64::from(path.macs) + f64::from(path.wmma) * MACS_OF_MATRIX / f64::from(wave)
    };
    let all = 0..code.loops.len();
    let is_inside = |outer: usize, inner: usize| {
        let (a, b) = (&code.loops[outer], &code.loops[inner]);
        outer != inner && a.first <= b.first && b.last <= a.last
    };
    let nests: Vec<Vec<(usize, u32)>> = match work.chunks {
        None => all.map(|one| vec![(one, 1)]).collect(),
        Some(chunks) => {
            let pairs = all.clone().flat_map(|outer| all.clone().map(move |inner| (outer, inner)));
            let pairs = pairs.filter(|&(outer, inner)| is_inside(outer, inner));
            pairs.map(|(outer, inner)| vec![(outer, 1), (inner, chunks)]).collect()
        }
    };
    let error = |nest: &Vec<(usize, u32)>| {
        let found: f64 = nest.iter().map(|&(at, turns)| macs(at) * f64::from(turns)).sum();
        (found / work.macs - 1.0).abs()
    };
    let nearest = nests.into_iter().min_by(|a, b| error(a).total_cmp(&error(b)));
    nearest
        .filter(|nest| error(nest) <= 0.05)
        .ok_or_else(|| format!("no loops with {} multiply-adds, within 5 %, are a tile", work.macs))
}

/// The rate of a case in a file that --json printed.
fn least_rate(path: &Path, case: &str, family: &str) -> Result<f64, String> {
    let failed = |what: String| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    for line in text.lines() {
        let known: Value = serde_json::from_str(line).map_err(|error| failed(error.to_string()))?;
        if known["case"] == case && known["family"] == family {
            let rate = known["mac_per_clk_cu"].as_f64();
            return rate.ok_or_else(|| failed(format!("no rate of {case} on {family}")));
        }
    }
    Err(failed(format!("no line of {case} on {family}")))
}

const TABLE_HEAD: &str = "| kernel | GPU | wave | VGPRs | spills | scratch | LDS | code | waves/SIMD | hot loop: VALU | FMA | LDS reads (B) | loads (B) | clamps | cmp+sel | other | waits | FMA share | FMAs per LDS B | MAC/clk/CU | bound |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

fn report(
    arguments: &Arguments,
    family: &Family,
    name: &str,
    shader: &Shader,
    module: &spirv::Module,
    compiled: &Compiled,
) -> Result<(), String> {
    let get = |key: &str| compiled.get(key);
    let code = Code::parse(&compiled.assembly);
    let threads: u32 = module.workgroup.iter().product();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts")]
    let whole = |key: &str| get(key) as u32;
    let waves = family.waves(compiled.wave, whole("VGPRs"), whole("LDS size"), threads);
    let mut turns = Vec::new();
    for turn in &arguments.turns {
        let parsed = turn
            .split_once('=')
            .and_then(|(at, n)| Some((at.parse::<usize>().ok()?, n.parse().ok()?)));
        turns.push(parsed.ok_or_else(|| format!("--turns: expected LOOP=TURNS, found {turn}"))?);
    }
    let mut macs = arguments.macs;
    if let (true, Some(work)) = (turns.is_empty(), shader.work) {
        turns = loops_of_tile(&code, work, compiled.wave)?;
        macs = macs.or(Some(work.macs));
    }
    let mut mix = Mix::default();
    let (mut alone, mut in_flight) = (0.0, 0);
    if turns.is_empty() {
        match code.hottest() {
            Some(hot) => turns.push((hot, 1)),
            None => mix = code.total,
        }
    }
    for &(at, n) in &turns {
        let one = code.loops.get(at).ok_or_else(|| format!("--turns: {name} has no loop {at}"))?;
        mix += one.path.times(n);
        alone += family.alone(&one.steps, compiled.wave) * f64::from(n);
        in_flight = in_flight.max(model::bytes_in_flight(&one.steps));
    }
    let e = family.estimate(&mix, compiled.wave, waves, alone, macs);
    if let Some(path) = &arguments.least {
        let spilled = whole("Spilled VGPRs") + whole("Spilled SGPRs");
        if spilled + whole("Scratch size") > 0 {
            return Err(format!("{spilled} registers spill; {} B of scratch", get("Scratch size")));
        }
        let least = least_rate(path, name, family.name)?;
        if e.rate < 0.98 * least {
            return Err(format!(
                "modelled rate: expected at least {least:.1}, found {:.1}",
                e.rate
            ));
        }
    }
    if arguments.json {
        let waves_of_cu = waves * f64::from(family.units);
        let line = json!({
            "case": name,
            "kernel": shader.kernel,
            "family": family.name,
            "vgprs": whole("VGPRs"),
            "spilled": whole("Spilled VGPRs") + whole("Spilled SGPRs"),
            "scratch": whole("Scratch size"),
            "lds": whole("LDS size"),
            "waves": waves,
            "mac_per_clk_cu": e.rate,
            "bytes_per_clk_cu": e.bytes,
            "bytes_in_flight": f64::from(in_flight) * f64::from(compiled.wave) * waves_of_cu,
            "matrix_busy": e.matrix_share,
            "bound": e.bound,
            "error": null,
        });
        println!("{line}");
        return Ok(());
    }
    if arguments.table {
        let other = mix.valu() - mix.fma - mix.clamp - mix.compare - mix.select;
        println!(
            "| {name} | {} | {} | {} | {}+{} | {} | {} | {} | {waves:.1} | {} | {} | {} ({}) | {} ({}) | {} | {} | {other} | {} | {:.0} % | {:.2} | {:.0}{} | {} |",
            family.name,
            compiled.wave,
            get("VGPRs"),
            get("Spilled VGPRs"),
            get("Spilled SGPRs"),
            get("Scratch size"),
            get("LDS size"),
            get("Code size"),
            mix.valu(),
            if mix.wmma > 0 { format!("{} wmma", mix.wmma) } else { mix.fma.to_string() },
            mix.lds_reads,
            mix.lds_read_bytes,
            mix.loads + mix.scalar_loads,
            mix.load_bytes + mix.scalar_bytes,
            mix.clamp,
            mix.compare + mix.select,
            mix.waits,
            100.0 * f64::from(mix.fma) / f64::from(mix.valu().max(1)),
            f64::from(mix.macs) / f64::from(mix.lds_read_bytes.max(1)),
            e.rate,
            if mix.wmma > 0 {
                format!(" (matrix {:.0} %)", 100.0 * e.matrix_share)
            } else {
                String::new()
            },
            e.bound,
        );
        return Ok(());
    }
    println!("\n### {name}");
    if !shader.variant.is_empty() {
        println!("{}", shader.variant);
    }
    println!(
        "wave {}, {threads} invocations; VGPRs {}, SGPRs {}, spilled {} + {}; LDS {} B, scratch {} B; code {} B, {} instructions",
        compiled.wave,
        get("VGPRs"),
        get("SGPRs"),
        get("Spilled VGPRs"),
        get("Spilled SGPRs"),
        get("LDS size"),
        get("Scratch size"),
        get("Code size"),
        get("Instructions"),
    );
    println!(
        "waves per SIMD: {waves:.2} (the driver says {}); ACO's latency {}, inverse throughput {}; VALU {}, SALU {}, VMEM {}, SMEM {}, LDS {}, VOPD {}",
        get("Subgroups per SIMD"),
        get("Latency"),
        get("Inverse Throughput"),
        get("VALU"),
        get("SALU"),
        get("VMEM"),
        get("SMEM"),
        code.total.lds_reads + code.total.lds_writes,
        get("VOPD"),
    );
    if arguments.all {
        for (key, value) in &compiled.statistics {
            println!("  {key}: {value}");
        }
    }
    for (at, one) in code.loops.iter().enumerate() {
        if arguments.loops || Some(at) == code.hottest() {
            let hot = if Some(at) == code.hottest() { ", the hottest" } else { "" };
            println!(
                "loop {at}, depth {}, blocks {}-{}{hot}:\n  {}",
                one.depth,
                one.first,
                one.last,
                describe(&one.path)
            );
        }
    }
    println!(
        "estimate: {:.0} MAC/clk of 64 a CU at single issue, bound by {}; cycles: VALU {:.0}, matrix {:.0}, LDS {:.0}, loads {:.0}, scalar {:.0}, latency {:.0} (one wave alone {alone:.0}); vector loads {:.1} B/clk a CU{}",
        e.rate,
        e.bound,
        e.valu,
        e.matrix,
        e.lds,
        e.loads,
        e.scalar,
        e.latency,
        e.bytes,
        if mix.wmma > 0 {
            format!("; matrix units busy {:.0} %", 100.0 * e.matrix_share)
        } else {
            String::new()
        },
    );
    if arguments.hot {
        let names: Vec<String> =
            code.hot_names.iter().map(|(name, count)| format!("{count} {name}")).collect();
        println!("  {}", names.join(", "));
    }
    if let Some(stage) = &arguments.stage {
        for (_, text) in
            compiled.representations.iter().filter(|(name, _)| name.contains(stage.as_str()))
        {
            println!("{text}");
        }
    }
    if arguments.asm {
        println!("{}", compiled.assembly);
    }
    Ok(())
}

fn describe(mix: &Mix) -> String {
    let parts = [
        ("macs", mix.macs),
        ("valu", mix.valu()),
        ("fma", mix.fma),
        ("dual", mix.dual),
        ("wmma", mix.wmma),
        ("float", mix.float),
        ("trans", mix.trans),
        ("convert", mix.convert),
        ("compare", mix.compare),
        ("select", mix.select),
        ("clamp", mix.clamp),
        ("integer", mix.integer),
        ("move", mix.moves),
        ("lane", mix.lanes),
        ("other", mix.other_valu),
        ("LDS reads", mix.lds_reads),
        ("LDS read bytes", mix.lds_read_bytes),
        ("LDS writes", mix.lds_writes),
        ("loads", mix.loads),
        ("load bytes", mix.load_bytes),
        ("stores", mix.stores),
        ("scratch", mix.scratch),
        ("scalar loads", mix.scalar_loads),
        ("scalar bytes", mix.scalar_bytes),
        ("salu", mix.salu),
        ("waits", mix.waits),
        ("barriers", mix.barriers),
        ("branches", mix.branches),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    shown.join(", ")
}
