//! `margay ctl ipam release --from-report`: what reports of `ipam check` call leaked is taken back,
//! if they are of this cluster, one of them is new, and the store is locked.

use super::super::version;
use super::super::write::out;
use anyhow::{Context, Result, bail};
use margay_control::ipam::Ipam;
use margay_control::ipam::report::Report;
use margay_control::store::Store;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) async fn from_reports(
    ipam: &Ipam<'_, Store>,
    files: &[PathBuf],
    force: bool,
) -> Result<ExitCode> {
    let cluster = ipam.cluster().await?;
    let mut reports = Vec::new();
    for file in files {
        let report = read(file)?;
        let name = file.display();
        if report.cluster_guid != cluster.cluster_guid {
            bail!(
                "cluster does not match the provided report ({name}): mismatched cluster GUID. \
                 Refusing to release"
            );
        }
        if report.version != version::CLIENT {
            if !force {
                bail!(
                    "the provided report ({name}) was produced using a different version ({}) of \
                     calicoctl. Refusing to release",
                    report.version
                );
            }
            out("WARNING: Report was produced using a different version of calicoctl. Ignoring \
                 due to --force option\n")?;
        }
        reports.push(report);
    }
    if !reports.iter().any(|report| report.revision == cluster.revision) {
        bail!(
            "the provided reports are all stale - at least one should be up-to-date. Please \
             generate a new report while the data store is locked and try again"
        );
    }
    if !cluster.datastore_locked {
        if !force {
            bail!("data store is not locked. Either lock the data store, or re-run with --force");
        }
        out("WARNING: Data store is not locked. Ignoring due to --force option\n")?;
    }
    release(ipam, &reports).await?;
    out("You may now unlock the data store.\n")?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text)
        .with_context(|| format!("{}: no report of `ipam check -o FILE`", file.display()))
}

async fn release(ipam: &Ipam<'_, Store>, reports: &[Report]) -> Result<()> {
    let released = ipam.release_leaked(reports).await?;
    match (released.leaked, &released.fault) {
        (0, _) => out("Report didn't contain any leaked IPs to clean up.\n")?,
        (count, Some(fault)) => out(&format!(
            "Releasing {count} old IPs...\nAn error occurred while releasing some IPs: {fault}.  \
             Problems are often caused by an out-of-date IPAM report.  Try regenerating the IPAM \
             report and retry.\n"
        ))?,
        (count, None) => {
            let done = count - released.free;
            out(&format!("Releasing {count} old IPs...\nReleased {done} IPs successfully\n"))?;
        }
    }
    if released.free > 0 {
        out(&format!(
            "{} addresses marked as leaked in the report had already been cleaned up.\n",
            released.free
        ))?;
    }
    if released.handles.is_empty() {
        return out("Report didn't contain any handles to clean up.\n");
    }
    let mut text = format!("Deleting {} handles...\n", released.handles.len());
    text += "Key: '.' = Deleted OK; 'x' = skip, handle missing/changed.\n";
    let (mut deleted, mut skipped, mut errors) = (0, 0, 0);
    for (handle, outcome) in &released.handles {
        match outcome {
            Ok(true) => {
                deleted += 1;
                text.push('.');
            }
            Ok(false) => {
                skipped += 1;
                text.push('x');
            }
            Err(error) => {
                errors += 1;
                text += &format!("\nDeleting handle {handle} failed: {error}.\n");
            }
        }
    }
    text += &format!("\nReleased {deleted} handles; {skipped} skipped; {errors} errors.\n");
    out(&text)
}
