//! `wgpu-attention`: attention from the command line, on files any language can write.

fn main() -> std::process::ExitCode {
    wgpu_attention_cli::main()
}
