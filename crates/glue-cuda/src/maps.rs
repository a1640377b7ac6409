//! Maps on a device: which kernel, with which arguments, and where the result goes.

use crate::args::{self, Linear, MAX_INPUTS, Out, Sce, Stock, TaskArgs, Tile};
use crate::backend::{Backend, Kernel};
use crate::operands::{Operands, THREADS, align, blocks};
use crate::pass::{Pass, Stop, Target};
use crate::trims::Trim;
use glue_merge::device::{Float, Kernel as MapKernel, TaskKernel};
use glue_merge::select::Threshold;

impl<B: Backend> Pass<'_, B> {
    /// Runs a map over every tile.
    pub(crate) fn map(&mut self, kernel: &MapKernel<'_>, target: &Target<'_, B::Memory>) -> Result<(), Stop> {
        self.each_tile(target, |pass, i, operands, out| pass.map_tile(kernel, i, operands, out))
    }

    /// Calls `merge` with every tile and the address and type of its result, and brings results that
    /// go to the host there.
    fn each_tile(
        &mut self,
        target: &Target<'_, B::Memory>,
        mut merge: impl FnMut(&mut Self, usize, &Operands<B::Memory>, (u64, Float)) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let engine = self.engine;
        for i in 0..self.cutting.tiles.len() {
            let operands = self.tile(i)?;
            match *target {
                Target::Memory(memory, float) => merge(self, i, &operands, (engine.backend.address(memory), float))?,
                Target::Sink(sink) => {
                    let float = sink.float();
                    let bytes = operands.len() * float.size();
                    let shift = engine.options.shift[1] * float.size();
                    let out = engine.take(shift + bytes)?;
                    let mut done = merge(self, i, &operands, (engine.backend.address(&out) + shift as u64, float));
                    if done.is_ok() {
                        let start = operands.range.start;
                        let written =
                            engine.backend.download(&mut self.stream, &out, shift..shift + bytes, &mut |at, piece| {
                                sink.write_stored(start + at / float.size(), piece)
                            });
                        done = written.map_err(Stop::from);
                    }
                    // Where this failed, the memory is freed, for which the driver waits, and not kept.
                    done?;
                    engine.give_back([out]);
                }
            }
        }
        Ok(())
    }

    /// Runs a kernel with a thread for every chunk.
    fn run<A: Copy>(
        &mut self,
        file: &'static str,
        name: &'static str,
        float: Float,
        t: &Tile,
        args: &A,
    ) -> Result<(), Stop> {
        Ok(self.launch(Kernel { file, name, float: Some(float), threads: THREADS }, [blocks(t), 1], args)?)
    }

    fn map_tile(
        &mut self,
        kernel: &MapKernel<'_>,
        i: usize,
        operands: &Operands<B::Memory>,
        (at, to): (u64, Float),
    ) -> Result<(), Stop> {
        let (float, out) = (operands.float, Out::new(at, to));
        let mut t = operands.tile(&self.engine.backend, &[(at, to.size())]);
        self.count(operands, self.n_inputs + usize::from(self.has_base), to.size());
        match *kernel {
            MapKernel::Linear { base, inputs } if inputs.len() == self.n_inputs => {
                let terms = (self.has_base.then_some((base, t.base)).into_iter())
                    .chain(inputs.iter().copied().zip(t.input))
                    .filter(|(c, _)| *c != 0.0);
                let mut args = Linear { t, out, c: [0.0; MAX_INPUTS] };
                args.t.inputs = 0;
                args.t.base = 0;
                for (term, (c, from)) in terms.enumerate() {
                    (args.c[term], args.t.input[term]) = (c, from);
                    args.t.inputs = term as u32 + 1;
                }
                align(&mut args.t, float, &[(at, to.size())]);
                self.run("linear", "linear", float, &args.t, &args)
            }
            MapKernel::Task(task) if self.has_base && task.factors.len() == self.n_inputs => {
                match self.trim(task.trim, i)? {
                    Trim::Nothing(trim) => {
                        let args = task_args(t, out, &task, trim);
                        let name = if task.elect { "task_elected" } else { "task_sum" };
                        self.run("task_sum", name, float, &t, &args)
                    }
                    Trim::Between(trim) => {
                        let args = task_args(t, out, &task, trim);
                        let name = if task.elect { "ties" } else { "breadcrumbs" };
                        self.run(name, name, float, &t, &args)
                    }
                    Trim::Random(trim) => {
                        let args = task_args(t, out, &task, trim);
                        let name = if task.elect { "dare_elected" } else { "dare" };
                        self.run("dare", name, float, &t, &args)
                    }
                    Trim::Marked(trim) => {
                        let args = task_args(t, out, &task, trim);
                        let name = if task.elect { "della_elected" } else { "della" };
                        self.run("della", name, float, &t, &args)
                    }
                }
            }
            MapKernel::Sce { threshold, weights } if self.has_base && weights.len() == self.n_inputs => {
                let all = u32::from(threshold == Threshold::ALL);
                let weight = args::row(weights, |w| w);
                self.run("sce", "sce", float, &t, &Sce { t, out, cut: threshold.into(), all, unused: 0, weight })
            }
            MapKernel::ModelStockRows { row }
                if self.has_base && row > 0 && self.n_inputs <= 8 && self.cutting.keeps_rows(row) =>
            {
                let (name, width) = if self.n_inputs <= 4 { ("model_stock4", 4) } else { ("model_stock8", 8) };
                for k in self.n_inputs..width {
                    t.input[k] = t.input[0];
                }
                let kernel = Kernel { file: "model_stock", name, float: Some(float), threads: THREADS };
                let rows = operands.len().div_ceil(row) as u32;
                Ok(self.launch(kernel, [rows, 1], &Stock { t, out, row: row as i64 })?)
            }
            _ => Err(Stop::Unsupported),
        }
    }
}

fn task_args<T>(t: Tile, out: Out, task: &TaskKernel<'_>, trim: T) -> TaskArgs<T> {
    TaskArgs {
        t,
        out,
        factor: args::row(task.factors, |f| f),
        weight: args::row(task.weights, |w| w),
        lambda: if task.elect { task.lambda } else { task.scale() },
        normalize: u32::from(task.normalize),
        trim,
    }
}
