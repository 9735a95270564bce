"""Many rows; knows an endpoint only as a callable.

From the bottom up:
    records.py     what is known of a row, and the one table of its columns
    shown.py       a row as results show it; pure
    policy.py      how a batch is run, and what a failed attempt means for the row and for the run; pure
    rate.py        requests a minute, and the mirror of the endpoint's token bucket; pure
    window.py      how many may be in flight, as long as none is refused; pure
    limiter.py     when the next may go, and what it is that refuses; pure
    values.py      what tables hold, in Python's own words and in JSON's; pure
    cells.py       what a cell or a record of a table means; pure
    frames.py      what predict takes as a DataFrame
    files.py       CSV, TSV, JSON lines, Parquet, read a record at a time
    tables.py      iterables, frames and files: the rows of a batch
    disk.py        whether SQLite can trust a file system; room for when the disk is full
    sqlite.py      how SQLite's files are opened, and what its errors mean
    salvage.py     what can still be read of a damaged journal
    journal.py     SQLite: every row's state and outcome
    memory.py      answers by what was asked, for evaluations
    progress.py    how a batch is getting on
    bar.py         shows it
    exports.py     pandas, JSON lines, CSV, Parquet: a file appears when it is whole
    results.py     BatchResult: its rows, sums and exports
    mlflow_run.py  what an MLflow run shows of a batch
    ahead.py       rows that were read and not yet sent
    workers.py     threads that ask
    retries.py     rows that wait to be sent again; pure
    scheduler.py   claims, sends, and records how rows end; decides nothing
    signals.py     Ctrl-C, SIGTERM, and a source of rows that blocks
    run.py         rows, journal, scheduler and result put together
"""
