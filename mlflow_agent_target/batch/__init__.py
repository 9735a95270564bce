"""Many rows; knows an endpoint only as a callable. From the bottom up:

records     what is known of a row, and the one table of its columns
policy      how a batch is run, and what a failed attempt means for the row and for the run; pure
rate        requests a minute, and the mirror of the endpoint's token bucket; pure
limiter     how many may be in flight, and when the next may go; pure
cells       what a cell or a record of a table means; pure
tables      iterables, frames, CSV, JSONL, Parquet, read a record at a time
journal     SQLite: every row's state and outcome
progress    how a batch is getting on
bar         shows it
exports     pandas, JSON lines, Parquet: a file appears when it is whole
results     BatchResult and BatchRow
mlflow_run  what an MLflow run shows of a batch
scheduler   threads, queues and transactions
run         rows, journal, scheduler and result put together; Ctrl-C
"""
