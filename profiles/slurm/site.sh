# What a job of this site needs before it starts: modules and the like, for example
#   module load cuda
# Every job runs this first, and so does the one that the preflight tries (docs/how-to/before-you-queue.md).
