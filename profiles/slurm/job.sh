#!/bin/sh
# What runs on the node; submit.py puts site.sh and Snakemake's script in the places of the lines in at signs.

@SITE@

ended=.snakemake/slurm/ended-$SLURM_JOB_ID

# A node that was given up may have finished the job after all, before Slurm started it here again.
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ "$(cat "$ended" 2>/dev/null)" = 0 ]; then
    echo "job $SLURM_JOB_ID was finished on its first node; nothing to do"
    exit 0
fi

# USR1 comes ahead of the end of the job's time (slurm_signal_s). It is meant for those that know what to do with it;
# it would kill the others.
tell() {
    for folder in /proc/[0-9]*; do
        tr '\0' '\n' <"$folder/environ" 2>/dev/null | grep -qx "SLURM_JOB_ID=$SLURM_JOB_ID" || continue
        caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' "$folder/status" 2>/dev/null)
        [ "${folder#/proc/}" != $$ ] && [ $((0x${caught:-0} >> 9 & 1)) = 1 ] && kill -USR1 "${folder#/proc/}"
    done
}

(
@JOBSCRIPT@
) &
child=$!
# TERM reaches every process of the job; this one stays until the others have put away what they have.
trap signalled=yes TERM
trap 'signalled=yes; tell' USR1
signalled=yes
while [ "$signalled" ]; do
    # A wait that a signal ends says nothing of the child; one for a child that was waited for already is 127.
    signalled=
    wait $child
    code=$?
    [ $code = 127 ] || status=$code
done
mkdir -p .snakemake/slurm && echo $status >"$ended.$$" && mv "$ended.$$" "$ended"
exit $status
