"""Results in S3: say at once, in one line, that the storage cannot be read.

The S3 plugin takes every failed question about a bucket for "there is no such bucket", and so, with a wrong key, all
results for missing.
"""


def require_readable(prefix):
    """End the run if the results under a prefix like ``s3://bucket/project`` cannot be listed."""
    # Here, for only who keeps results in S3 has it.
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, folder = prefix.removeprefix("s3://").partition("/")
    # The plugin's own client: the same end-point, key and retries as the run.
    client = workflow.storage_registry.default_storage_provider.s3c.meta.client
    try:
        client.list_objects_v2(Bucket=bucket, Prefix=folder, MaxKeys=1)
    except (BotoCoreError, ClientError) as error:
        if (
            getattr(error, "response", {}).get("Error", {}).get("Code")
            == "NoSuchBucket"
        ):
            return  # the plugin makes it
        reason = " ".join(str(error).split())
        print(
            f"error: {prefix}: {reason}; check the end-point, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            file=sys.stderr,
        )
        sys.exit(1)


if (
    TUNED
    and CONFIG.tuning.workers > 1
    and workflow.storage_settings.default_storage_provider
):
    print(
        "error: tuning.workers: jobs share a study through a file system, and results are kept in a storage; set "
        "tuning.workers: 1",
        file=sys.stderr,
    )
    sys.exit(1)

# Once, and not again in every job.
if (
    workflow.is_main_process
    and workflow.storage_settings.default_storage_provider == "s3"
):
    require_readable(workflow.storage_settings.default_storage_prefix or "")
