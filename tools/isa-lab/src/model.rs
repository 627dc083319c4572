//! How near to a GPU's rate of f32 multiply-adds a loop can come: the slowest of its units, or the latency that its
//! waves cannot hide. A model, not a measurement; README.md says what it assumes.

use crate::isa::{Fetch, Mix, Step};

/// What the model knows of a family of GPUs.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// As RADV_FORCE_FAMILY has it.
    pub name: &'static str,
    pub what: &'static str,
    /// Lanes of a vector unit, and units that share a port to workgroup memory.
    pub lanes: u32,
    pub units: u32,
    /// Registers of a unit, each a value of `lanes` lanes, and how many of them at a time a wave gets.
    pub registers: u32,
    pub granule: u32,
    pub most_waves: u32,
    /// Bytes of workgroup memory that `lds_units` units share.
    pub lds_bytes: u32,
    pub lds_units: u32,
    /// Whether f32 multiply-adds may issue twice as fast.
    pub dual: bool,
    /// Cycles of a 16x16x16 matrix multiplication on one unit.
    pub wmma_cycles: u32,
    /// Cooperative matrices as wgpu would report them: rows, largest subgroup.
    pub matrices: Option<[u32; 2]>,
}

const RDNA: Family = Family {
    name: "",
    what: "",
    lanes: 32,
    units: 2,
    registers: 1536,
    granule: 24,
    most_waves: 16,
    lds_bytes: 128 << 10,
    lds_units: 4,
    dual: true,
    wmma_cycles: 32,
    matrices: Some([16, 64]),
};

/// The families that the model has numbers for.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "vega10",
        what: "GCN 5",
        lanes: 16,
        units: 4,
        registers: 1024,
        granule: 16,
        most_waves: 10,
        lds_bytes: 64 << 10,
        lds_units: 4,
        dual: false,
        wmma_cycles: 0,
        matrices: None,
    },
    Family {
        name: "navi21",
        what: "RDNA 2",
        registers: 1024,
        granule: 16,
        dual: false,
        matrices: None,
        ..RDNA
    },
    Family { name: "navi31", what: "RDNA 3", ..RDNA },
    Family { name: "gfx1201", what: "RDNA 4", wmma_cycles: 16, ..RDNA },
];

/// Cycles from a read of workgroup memory, or of memory that a cache has, to its use.
const LDS_LATENCY: f64 = 64.0;
const LOAD_LATENCY: f64 = 300.0;
const SCALAR_LATENCY: f64 = 64.0;
/// Bytes a cycle: workgroup memory, nearest cache, scalar cache, each of `units` units (the last of twice as many).
const LDS_RATE: f64 = 128.0;
const LOAD_RATE: f64 = 64.0;
const SCALAR_RATE: f64 = 64.0;

/// What the model says of a loop.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// Cycles of a turn of the loop, on a unit that has that many waves, for each of them.
    pub valu: f64,
    pub matrix: f64,
    pub lds: f64,
    pub loads: f64,
    pub scalar: f64,
    pub latency: f64,
    /// f32 multiply-adds a cycle of as many units as share a port to workgroup memory, of 64.
    pub rate: f64,
    /// Bytes a cycle that the same units ask of the caches or of memory, in vector loads.
    pub bytes: f64,
    /// The same of matrices, as a share of their own peak.
    pub matrix_share: f64,
    pub bound: &'static str,
}

impl Family {
    pub fn find(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.name == name)
    }

    /// Waves of a unit, on average: registers give whole ones, workgroup memory whole workgroups of a group of units.
    pub fn waves(&self, wave: u32, vgprs: u32, lds: u32, threads: u32) -> f64 {
        // A register of a wave of 64 takes two of a unit of 32 lanes, and four of one of 16.
        let registers = self.registers * self.lanes / wave.max(1);
        let granule = self.granule * self.lanes / wave.max(1);
        let by_registers = f64::from(registers / vgprs.max(1).next_multiple_of(granule.max(1)));
        let waves_of_group = threads.div_ceil(wave.max(1));
        let by_lds = match lds {
            0 => f64::INFINITY,
            bytes => {
                f64::from(self.lds_bytes / bytes.next_multiple_of(512) * waves_of_group)
                    / f64::from(self.lds_units)
            }
        };
        by_registers.min(by_lds).min(f64::from(self.most_waves))
    }

    /// `alone`: cycles of one wave on its own. `macs`: what of the multiply-adds is work; all of them if not given.
    pub fn estimate(
        &self,
        mix: &Mix,
        wave: u32,
        waves: f64,
        alone: f64,
        macs: Option<f64>,
    ) -> Estimate {
        let wave_lanes = f64::from(wave);
        let units = f64::from(self.units);
        let n = f64::from;
        let valu = self.valu(mix, wave);
        let matrix = n(mix.wmma * self.wmma_cycles);
        // Writes and narrow reads take as long as if each lane had 4 bytes.
        let narrow = |count: u32, bytes: u32| n(bytes).max(4.0 * n(count));
        let lds_bytes =
            narrow(mix.lds_reads, mix.lds_read_bytes) + narrow(mix.lds_writes, mix.lds_write_bytes);
        let lds = lds_bytes * wave_lanes / LDS_RATE * units;
        let loads = narrow(mix.loads, mix.load_bytes) * wave_lanes / LOAD_RATE * units
            + n(mix.scratch) * 4.0 * wave_lanes / LOAD_RATE * units;
        let scalar = n(mix.scalar_bytes) / SCALAR_RATE * 2.0 * units;
        let busy = valu + matrix;
        let latency = alone.max(busy) / waves.max(0.25);
        let bounds = [
            ("VALU", busy),
            ("LDS", lds),
            ("loads", loads),
            ("scalar loads", scalar),
            ("latency", latency),
        ];
        let (bound, time) = bounds
            .into_iter()
            .fold(("VALU", 0.0), |most, one| if one.1 > most.1 { one } else { most });
        let work = macs.unwrap_or(n(mix.macs));
        Estimate {
            valu,
            matrix,
            lds,
            loads,
            scalar,
            latency,
            rate: work * wave_lanes * units / time.max(1.0),
            bytes: n(mix.load_bytes) * wave_lanes * units / time.max(1.0),
            matrix_share: matrix / time.max(1.0),
            bound,
        }
    }

    /// Cycles that the vector unit is busy.
    fn valu(&self, mix: &Mix, wave: u32) -> f64 {
        let n = f64::from;
        let passes = n(wave) / n(self.lanes);
        // Of waves of 64, RDNA 3 issues both halves of these at once, if their registers' banks allow.
        let fast = n(mix.fma + mix.float + mix.moves);
        let slow = n(mix.valu() - mix.trans) - fast;
        let fast_passes = if self.dual && wave == 64 { 1.0 } else { passes };
        fast * fast_passes + slow * passes + n(mix.trans) * 4.0 * passes
    }

    /// Cycles of one wave that has the machine for itself: it issues in order, and waits where the code says so.
    pub fn alone(&self, steps: &[Step], wave: u32) -> f64 {
        let mut now = 0.0;
        let mut start = 0.0;
        let mut flying: Vec<(Fetch, f64)> = Vec::new();
        // A turn to fill the queues, and one to be timed.
        for turn in 0..2 {
            if turn == 1 {
                start = now;
            }
            for step in steps {
                match step {
                    Step::Issue(mix) => {
                        let vector = self.valu(mix, wave) + f64::from(mix.wmma * self.wmma_cycles);
                        let other = f64::from(
                            mix.salu + mix.branches + mix.barriers + mix.lds_writes + mix.stores,
                        );
                        now += vector + other;
                    }
                    Step::Fetch(kind, mix) => {
                        let lanes = f64::from(wave);
                        let (latency, transfer) = match kind {
                            Fetch::Lds => (
                                LDS_LATENCY,
                                f64::from(mix.lds_read_bytes.max(4)) * lanes / LDS_RATE,
                            ),
                            Fetch::Scalar => {
                                (SCALAR_LATENCY, f64::from(mix.scalar_bytes) / SCALAR_RATE)
                            }
                            Fetch::Memory => {
                                (LOAD_LATENCY, f64::from(mix.load_bytes.max(4)) * lanes / LOAD_RATE)
                            }
                        };
                        now += 1.0;
                        let before =
                            flying.iter().filter(|(other, _)| other == kind).map(|(_, at)| *at);
                        let ready = before.fold(now + latency, f64::max) + transfer;
                        flying.push((*kind, ready));
                    }
                    Step::Wait(counters) => {
                        now += 1.0;
                        // Before GFX12 one counter is of workgroup memory and scalar loads together.
                        let shared = counters[0].is_some() && counters[0] == counters[1];
                        let kinds = [Fetch::Lds, Fetch::Scalar, Fetch::Memory];
                        for (at, kind) in kinds.into_iter().enumerate() {
                            let Some(left) = counters[at] else { continue };
                            let counts = |other: Fetch| {
                                other == kind
                                    || (shared && kind != Fetch::Memory && other != Fetch::Memory)
                            };
                            let all = flying.iter().filter(|(other, _)| counts(*other)).count();
                            let mut done = all.saturating_sub(left as usize);
                            flying.retain(|&(other, ready)| {
                                let is_done = done > 0 && counts(other);
                                if is_done {
                                    done -= 1;
                                    now = f64::max(now, ready);
                                }
                                !is_done
                            });
                        }
                    }
                }
            }
        }
        now - start
    }
}

/// Most bytes that an invocation has asked of memory and not yet waited for.
pub fn bytes_in_flight(steps: &[Step]) -> u32 {
    let (mut flying, mut most) = (Vec::new(), 0);
    for step in steps.iter().chain(steps) {
        match step {
            Step::Fetch(Fetch::Memory, mix) => flying.push(mix.load_bytes),
            Step::Wait([_, _, Some(left)]) => {
                let done = flying.len().saturating_sub(*left as usize);
                flying.drain(..done);
            }
            _ => {}
        }
        most = most.max(flying.iter().sum());
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Code;

    #[test]
    fn waves_are_limited_by_registers_and_by_workgroup_memory() {
        let navi21 = Family::find("navi21").expect("known");
        assert_eq!(navi21.waves(64, 128, 0, 64), 4.0);
        assert_eq!(navi21.waves(32, 128, 0, 32), 8.0);
        // Three workgroups of one wave in the 128 KiB that four units share.
        assert_eq!(navi21.waves(64, 64, 33_280, 64), 0.75);
        let vega = Family::find("vega10").expect("known");
        assert_eq!(vega.waves(64, 128, 0, 64), 2.0);
    }

    #[test]
    fn a_wait_costs_what_is_left_of_the_latency() {
        let navi21 = Family::find("navi21").expect("known");
        let alone = |text: &str| navi21.alone(&Code::parse(text).loops[0].steps, 64);
        let at_once = alone(
            "BB0:\nBB1:\n\tds_read_b128 v[0:3], v9\n\ts_waitcnt lgkmcnt(0)\n\tv_fmac_f32 v4, v0, v1\n\ts_cbranch_scc0 BB1\n",
        );
        let fmas = "\tv_fmac_f32 v4, v5, v6\n".repeat(32);
        let later = alone(&format!(
            "BB0:\nBB1:\n\tds_read_b128 v[0:3], v9\n{fmas}\ts_waitcnt lgkmcnt(0)\n\tv_fmac_f32 v4, v0, v1\n\ts_cbranch_scc0 BB1\n"
        ));
        assert!(at_once > LDS_LATENCY);
        // 32 wave-wide multiply-adds take 64 cycles, which the read has meanwhile.
        assert!(later - at_once < 16.0, "{at_once} {later}");
    }

    #[test]
    fn a_broadcast_of_16_bytes_for_four_multiply_adds_is_half_of_the_rate() {
        let navi21 = Family::find("navi21").expect("known");
        let text = "BB0:\nBB1:\n\tds_read_b128 v[0:3], v9\n\tv_fmac_f32 v4, v0, v1\n\tv_fmac_f32 v4, v0, v1\n\tv_fmac_f32 v4, v0, v1\n\tv_fmac_f32 v4, v0, v1\n\ts_cbranch_scc0 BB1\n";
        let mix = Code::parse(text).loops[0].path;
        assert_eq!(navi21.estimate(&mix, 64, 8.0, 0.0, None).rate, 32.0);
    }
}
