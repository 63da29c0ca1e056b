//! `log_sizes FOLDER [COMMANDS]`: what the arbiters' log and snapshots weigh after so many quota commands (a million),
//! written into an empty folder. One JSON object on standard output.

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or_else(|| anyhow::anyhow!("log_sizes FOLDER [COMMANDS]"))?;
    let commands = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let sizes = quota_simulator::log_sizes(folder.as_ref(), commands)?;
    let report = serde_json::json!({
        "commands": sizes.commands,
        "entries": sizes.entries,
        "log_bytes": sizes.log_bytes,
        "snapshot_bytes": sizes.snapshot_bytes,
        "snapshots": sizes.snapshots,
        "file_max_bytes": sizes.file_max_bytes,
        "took_s": sizes.took_s,
    });
    std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{report}\n"))?;
    Ok(())
}
