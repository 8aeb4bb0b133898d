-- Statements of strangers who mean harm, and what must become of each:
--   refused    an error, at once
--   stopped    ended by a limit
--   harmless   an answer that holds nothing of anybody else
--   contained  any of these
-- {canary} is a file with a secret in it, {lake} the lake's folder, {home} the server's.
-- «x×3» stands for xxx. A statement goes on until the next line that begins with one of the words.

-- refused: files by table functions
SELECT * FROM read_csv('{canary}')
-- refused: text of a file
SELECT * FROM read_text('{canary}')
-- refused: bytes of a file
SELECT * FROM read_blob('{canary}')
-- refused: JSON
SELECT * FROM read_json('{canary}')
-- refused: JSON objects
SELECT * FROM read_json_objects('{canary}')
-- refused: JSON, guessed
SELECT * FROM read_json_auto('{canary}')
-- refused: lines of JSON
SELECT * FROM read_ndjson('{canary}')
-- refused: lines of JSON, guessed
SELECT * FROM read_ndjson_auto('{canary}')
-- refused: lines of JSON objects
SELECT * FROM read_ndjson_objects('{canary}')
-- refused: CSV, guessed
SELECT * FROM read_csv_auto('{canary}')
-- refused: how a CSV would be read
SELECT * FROM sniff_csv('{canary}')
-- refused: Parquet of the whole lake
SELECT * FROM read_parquet('{lake}/**/*.parquet')
-- refused: Parquet, the other name
SELECT * FROM parquet_scan('{lake}/experiment_id=2/metrics/*.parquet')
-- refused: what a Parquet file says of itself
SELECT * FROM parquet_metadata('{lake}/*')
-- refused: its schema
SELECT * FROM parquet_schema('{lake}/*')
-- refused: its own metadata
SELECT * FROM parquet_file_metadata('{lake}/*')
-- refused: its key and value pairs
SELECT * FROM parquet_kv_metadata('{lake}/*')
-- refused: its filters
SELECT * FROM parquet_bloom_probe('{lake}/*', 'run_id', 'x')
-- refused: a database of DuckDB
SELECT * FROM read_duckdb('{home}/log.db')
-- refused: the log
SELECT * FROM sqlite_scan('{home}/log.db', 'journal')
-- refused: the log's bytes
SELECT * FROM read_blob('{home}/log.db')
-- refused: PostgreSQL
SELECT * FROM postgres_scan('host=localhost', 'public', 'x')
-- refused: Arrow from an address in memory
SELECT * FROM arrow_scan(1, 2, 3)
-- refused: Arrow without
SELECT * FROM arrow_scan_dumb(1, 2, 3)
-- refused: pandas from an address in memory
SELECT * FROM pandas_scan(12345678)
-- refused: pandas, again
SELECT * FROM python_map_function(1)
-- refused: every file there is
SELECT * FROM glob('/**')
-- refused: files of the folder above
SELECT * FROM glob('../**')
-- refused: and above
SELECT * FROM glob('../../../../**')
-- harmless: the private folder holds nothing else
SELECT * FROM glob('**') /* of runs, params, tags, metrics, events */
-- refused: the environment
SELECT * FROM read_text('/proc/self/environ')
-- refused: the memory map
SELECT * FROM read_text('/proc/self/maps')
-- refused: the parent's environment
SELECT * FROM read_blob('/proc/1/environ')
-- refused: the command line
SELECT * FROM read_text('/proc/self/cmdline')
-- refused: an open file
SELECT * FROM read_blob('/proc/self/fd/0')
-- refused: another
SELECT * FROM read_blob('/proc/self/fd/3')
-- refused: the folder's other name, and up
SELECT * FROM read_text('/proc/self/cwd/../../../views.db')
-- refused: the root's other name
SELECT * FROM read_text('/proc/self/«root×1»/etc/passwd')
-- refused: standard input
SELECT * FROM read_text('/dev/stdin')
-- refused: a device
SELECT * FROM read_blob('/dev/zero')
-- refused: random bytes without end
SELECT * FROM read_blob('/dev/urandom')
-- refused: accounts
SELECT * FROM read_csv('/etc/passwd', delim=':', header=false)
-- refused: a URL of a file
SELECT * FROM read_text('file:///etc/passwd')
-- refused: a URL of a file on this host
SELECT * FROM read_text('file://localhost/etc/passwd')
-- refused: up and up
SELECT * FROM read_text('../../../../../../../../etc/passwd')
-- refused: up from a folder that is allowed
SELECT * FROM read_text('./x/../../../../../../etc/passwd')
-- refused: the home folder
SELECT * FROM read_text('~/.bash_history')
-- refused: a list of files
SELECT * FROM read_text(['/etc/passwd', '/etc/hosts'])
-- refused: a name put together
SELECT * FROM read_text('/etc/' || 'passwd')
-- refused: a name with other slashes
SELECT * FROM read_text('//etc//passwd')
-- refused: a name with a NUL by escape
SELECT * FROM read_text(E'/etc/passwd\x00.parquet')
-- refused: a file in FROM
SELECT * FROM '/etc/passwd'
-- refused: a file in FROM, as an identifier
SELECT * FROM "/etc/passwd"
-- refused: a CSV in FROM
SELECT * FROM '{canary}'
-- refused: a file in FROM first
FROM '{canary}'
-- refused: Parquet in FROM
FROM '{lake}/**/*.parquet'
-- refused: a glob in FROM
FROM '/*/*.csv'
-- refused: JSON in FROM
FROM '/«root×1»/.config.json'
-- refused: a URL in FROM
FROM 'https://localhost/x.parquet'
-- refused: a bucket in FROM
FROM 's3://bucket/x.parquet'
-- refused: a bucket of another maker
FROM 'gcs://bucket/x.parquet'
-- refused: a model hub
FROM 'hf://datasets/x/y.parquet'
-- refused: a URL by function
SELECT * FROM read_csv('http://127.0.0.1:5000/health')
-- refused: the cloud's own address
SELECT * FROM read_text('http://169.254.169.254/latest/meta-data/')
-- refused: nested in a subquery
SELECT (SELECT content FROM read_text('/etc/passwd'))
-- refused: nested in EXISTS
SELECT 1 WHERE EXISTS (FROM read_text('/etc/passwd'))
-- refused: nested in IN
SELECT 1 WHERE 'root' IN (SELECT content FROM read_text('/etc/passwd'))
-- refused: nested in WITH
WITH a AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM a
-- refused: nested in WITH MATERIALIZED
WITH a AS MATERIALIZED (FROM read_text('/etc/passwd')) FROM a
-- refused: lateral
SELECT * FROM (VALUES ('/etc/passwd')) t(f), LATERAL (SELECT * FROM read_text(f))
-- refused: in a join
SELECT * FROM runs JOIN read_text('/etc/passwd') ON true
-- refused: in a union
SELECT run_id FROM runs UNION ALL SELECT content FROM read_text('/etc/passwd')
-- refused: in DESCRIBE
DESCRIBE SELECT * FROM read_csv('{canary}')
-- refused: in SUMMARIZE
SUMMARIZE SELECT * FROM read_csv('{canary}')
-- refused: in SUMMARIZE of a file
SUMMARIZE '{canary}'
-- refused: in DESCRIBE of a file
DESCRIBE '{canary}'
-- refused: in EXPLAIN
EXPLAIN SELECT * FROM read_csv('{canary}')
-- refused: in EXPLAIN ANALYZE
EXPLAIN ANALYZE SELECT * FROM read_csv('{canary}')
-- refused: in PIVOT
PIVOT (SELECT * FROM read_text('/etc/passwd')) ON filename
-- refused: in UNPIVOT
UNPIVOT (SELECT size FROM read_text('/etc/passwd')) ON size
-- refused: in VALUES
VALUES ((SELECT content FROM read_text('/etc/passwd')))
-- refused: as text that is run
FROM query('SELECT * FROM read_text(''/etc/passwd'')')
-- refused: a table whose name is computed
FROM query_table('/etc/passwd')
-- refused: tables whose names are computed
FROM query_table(['/etc/passwd', '/etc/hosts'])
-- refused: a plan as JSON that is run
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''/etc/passwd'')'))
-- refused: the same as a pragma
PRAGMA json_execute_serialized_sql('{}')
-- refused: a plan of it
SELECT json_serialize_plan('SELECT * FROM read_text(''/etc/passwd'')') ->> 'plans' -> 0 FROM read_text('/etc/passwd')

-- refused: writing
COPY (SELECT 1) TO '{home}/written.csv'
-- refused: writing Parquet
COPY runs TO '{home}/written.parquet' (FORMAT parquet)
-- refused: writing into the private folder
COPY (SELECT 1) TO 'written.csv'
-- refused: writing to a device
COPY (SELECT 1) TO '/dev/stdout'
-- refused: writing folders
COPY (SELECT 1 AS a) TO '{home}/out' (FORMAT csv, PARTITION_BY (a))
-- refused: reading by COPY
COPY runs FROM '{canary}'
-- refused: everything written
EXPORT DATABASE '{home}/exported'
-- refused: everything read
IMPORT DATABASE '{home}'
-- refused: another database
ATTACH '{home}/log.db' AS log
-- refused: another database, of SQLite
ATTACH '{home}/log.db' AS log (TYPE sqlite)
-- refused: in memory
ATTACH ':memory:' AS other
-- refused: detached
DETACH memory
-- refused: the extension for URLs
INSTALL httpfs
-- refused: loaded
LOAD httpfs
-- refused: a library as an extension
LOAD '{home}/evil.duckdb_extension'
-- refused: from somebody
INSTALL shellfs FROM community
-- refused: updated
UPDATE EXTENSIONS
-- refused: a setting
SET enable_external_access = true
-- refused: a setting, unlocked
SET lock_configuration = false
-- refused: a limit
SET memory_limit = '100GB'
-- refused: threads
SET GLOBAL threads = 64
-- refused: a place for files
SET temp_directory = '{home}'
-- refused: a place of logs
SET SESSION log_query_path = '{home}/log.txt'
-- refused: reset
RESET memory_limit
-- refused: a variable
SET VARIABLE a = (SELECT content FROM read_text('/etc/passwd'))
-- refused: a pragma
PRAGMA enable_profiling
-- refused: a pragma that writes
PRAGMA profiling_output = '{home}/profile.json'
-- refused: the version by pragma
PRAGMA version
-- refused: a call
CALL pragma_version()
-- refused: logging
CALL enable_logging(storage = 'file', storage_path = '{home}')
-- refused: a checkpoint
CHECKPOINT
-- refused: a table
CREATE TABLE t AS SELECT 1
-- refused: a temporary table
CREATE TEMP TABLE t AS FROM range(10)
-- refused: a view
CREATE OR REPLACE VIEW runs AS SELECT 1
-- refused: a macro
CREATE MACRO f(x) AS x
-- refused: a secret
CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')
-- refused: a sequence
CREATE SEQUENCE s
-- refused: a schema
CREATE SCHEMA s
-- refused: a type
CREATE TYPE t AS ENUM ('a')
-- refused: rows
INSERT INTO runs VALUES (1)
-- refused: rows changed
UPDATE runs SET run_id = 'x'
-- refused: rows deleted
DELETE FROM runs
-- refused: unsealed rows deleted
DELETE FROM unsealed.points
-- refused: unsealed rows made up
INSERT INTO unsealed.names SELECT * FROM unsealed.names
-- refused: the schema of unsealed rows dropped
DROP SCHEMA unsealed CASCADE
-- refused: another schema entered
USE unsealed
-- refused: all rows deleted
TRUNCATE runs
-- refused: rows merged
MERGE INTO runs USING (SELECT 1 a) s ON true WHEN MATCHED THEN DELETE
-- refused: a view dropped
DROP VIEW runs
-- refused: a view renamed
ALTER VIEW runs RENAME TO r
-- refused: a transaction
BEGIN TRANSACTION
-- refused: ended
ROLLBACK
-- refused: prepared
PREPARE p AS SELECT 1
-- refused: executed
EXECUTE p
-- refused: forgotten
DEALLOCATE p
-- refused: another database used
USE memory
-- refused: tidied
VACUUM
-- refused: analyzed
ANALYZE
-- refused: a remark
COMMENT ON VIEW runs IS 'x'
-- refused: rows by WITH
WITH a AS (INSERT INTO runs VALUES ('x') RETURNING *) SELECT * FROM a
-- refused: a copy explained
EXPLAIN COPY (SELECT 1) TO '{home}/written.csv'
-- refused: a copy explained and run
EXPLAIN ANALYZE COPY (SELECT 1) TO '{home}/written.csv'
-- refused: a copy behind a remark
EXPLAIN /* SELECT */ COPY (SELECT 1) TO '{home}/written.csv'
-- refused: a remark before EXPLAIN
/* x */ EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1
-- refused: a copy of a pivot
COPY (PIVOT (SELECT 1 a) ON a USING count(*)) TO '{home}/written.csv'
-- refused: a table of a pivot
CREATE TABLE t AS PIVOT (SELECT 1 a) ON a USING count(*)

-- refused: two statements
SELECT 1; SELECT 2
-- refused: two statements, one that writes
SELECT 1; COPY (SELECT 1) TO '{home}/written.csv'
-- refused: behind a remark
SELECT 1; -- SELECT
COPY (SELECT 1) TO '{home}/written.csv'
-- refused: a parenthesis closed early
SELECT 1) TO '{home}/written.csv' (FORMAT csv); --
-- refused: the wrapping closed
SELECT 1) AS t(c0); COPY (SELECT 1) TO '{home}/written.csv'; SELECT * FROM (SELECT 1
-- refused: the wrapping closed in parentheses
SELECT 1)) TO '{home}/written.csv' (FORMAT csv) --
-- contained: a remark left open
SELECT 1 /*
-- refused: a text left open
SELECT 'a
-- refused: a dollar text left open
SELECT $x$ a
-- refused: nothing
;
-- refused: only a remark
/* SELECT 1 */
-- harmless: a semicolon in a text
SELECT '; COPY (SELECT 1) TO ''{home}/written.csv'';' AS a
-- harmless: a semicolon in a dollar text
SELECT $$; DROP VIEW runs;$$ AS a
-- harmless: a remark within remarks
SELECT /* ; DROP VIEW runs */ 1 AS a -- ; DROP VIEW runs
-- refused: a look-alike of SELECT
ЅELECT 1
-- refused: wide letters
ＳＥＬＥＣＴ 1
-- refused: a word of zero width in COPY
CO​PY (SELECT 1) TO '{home}/written.csv'
-- refused: other spaces before COPY
 COPY (SELECT 1) TO '{home}/written.csv'
-- refused: an order mark before COPY
﻿COPY (SELECT 1) TO '{home}/written.csv'
-- refused: mixed case
cOpY (sElEcT 1) tO '{home}/written.csv'
-- refused: quoted functions
SELECT * FROM "read_text"('/etc/passwd')
-- refused: functions by their schema
SELECT * FROM system.main.read_text('/etc/passwd')
-- refused: functions by a dot
SELECT ('/etc/passwd').read_text()
-- contained: text written to the right
SELECT * FROM read_text('‮dwssap/cte/')

-- refused: the environment by function
SELECT getenv('RUNFOLD_CANARY')
-- refused: the environment in a list
SELECT list_transform(['HOME', 'PATH'], lambda x: getenv(x))
-- refused: a Python variable
SELECT * FROM job
-- refused: another
SELECT * FROM connection
-- refused: another
SELECT * FROM sys
-- contained: secrets
SELECT * FROM duckdb_secrets()
-- contained: a secret by name
SELECT * FROM which_secret('s3://x', 's3')
-- contained: extensions
SELECT * FROM duckdb_extensions()
-- harmless: settings
SELECT * FROM duckdb_settings()
-- harmless: databases
SELECT * FROM duckdb_databases()
-- harmless: views and how they are made
SELECT * FROM duckdb_views()
-- harmless: tables
SELECT * FROM duckdb_tables()
-- harmless: columns
SELECT * FROM duckdb_columns()
-- harmless: functions
SELECT function_name, macro_definition FROM duckdb_functions() WHERE NOT internal
-- harmless: temporary files
SELECT * FROM duckdb_temporary_files()
-- harmless: memory
SELECT * FROM duckdb_memory()
-- harmless: variables
SELECT * FROM duckdb_variables()
-- harmless: prepared statements
SELECT * FROM duckdb_prepared_statements()
-- contained: logs
SELECT * FROM duckdb_logs()
-- contained: logs, read
SELECT * FROM duckdb_log_contexts()
-- harmless: views as the standard has them
SELECT * FROM information_schema.tables
-- harmless: columns as the standard has them
SELECT * FROM information_schema.columns
-- harmless: schemas as the standard has them
SELECT * FROM information_schema.schemata
-- harmless: as PostgreSQL has them
SELECT * FROM pg_catalog.pg_class
-- harmless: as SQLite has them
SELECT * FROM sqlite_master
-- harmless: all tables
SHOW ALL TABLES
-- harmless: databases shown
SHOW DATABASES
-- harmless: who
SELECT current_user, session_user, current_database(), current_schemas(true), version()
-- harmless: one setting
SELECT current_setting('secret_directory'), current_setting('temp_directory')
-- harmless: the size of it
SELECT * FROM pragma_database_size()
-- harmless: which platform
SELECT * FROM pragma_platform()

-- harmless: runs of others
SELECT * FROM runs WHERE experiment_id = '2' OR experiment_id <> '1'
-- harmless: points of others
SELECT * FROM metrics WHERE experiment_id <> '1'
-- harmless: events of others
SELECT * FROM events WHERE experiment_id IS DISTINCT FROM '1'
-- harmless: everything of all tables
SELECT * FROM events
-- harmless: params of all
SELECT * FROM params
-- harmless: tags of all
SELECT * FROM tags
-- harmless: experiments
SELECT * FROM experiments
-- harmless: data sets
SELECT * FROM datasets
-- harmless: models
SELECT * FROM logged_models
-- harmless: latest values
SELECT * FROM latest_metrics
-- harmless: keys that there are
SELECT DISTINCT key FROM metrics
-- harmless: the plan
EXPLAIN SELECT * FROM metrics WHERE experiment_id = '2'
-- harmless: the plan with numbers
EXPLAIN ANALYZE SELECT count(*) FROM metrics, runs
-- harmless: the plan as JSON
EXPLAIN (FORMAT json) SELECT * FROM metrics
-- harmless: least and greatest of files
SELECT * FROM parquet_metadata('**/*.parquet') /* of runs, params, tags, metrics, events */
-- harmless: files read by name
SELECT filename, * FROM read_parquet('**/*.parquet', filename = true, union_by_name = true) /* of runs, params, tags, metrics, events */
-- harmless: bytes of files
SELECT content FROM read_blob('**') /* of runs, params, tags, metrics, events */
-- harmless: a run table
SELECT * FROM run_table('2')
-- harmless: the run table of others by name
SELECT * FROM run_table('hidden')
-- refused: an error that shows a value
SELECT CAST(max(run_name) AS INTEGER) FROM runs
-- refused: an error of its own
SELECT error('x' || (SELECT string_agg(run_name, ',') FROM runs))

-- stopped: rows without end
SELECT count(*) FROM range(1000000000000)
-- stopped: a sum without end
SELECT sum(sqrt(range)) FROM range(1000000000000)
-- stopped: recursion without end
WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT count(*) FROM t
-- stopped: recursion that doubles
WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a FROM t, (VALUES (1), (2))) SELECT count(*) FROM t
-- stopped: recursion over distinct rows
WITH RECURSIVE t(a) AS (SELECT 1 UNION SELECT a + 1 FROM t) SELECT max(a) FROM t
-- stopped: recursion with a key
WITH RECURSIVE t(a, b) USING KEY (a) AS (SELECT 1, 1 UNION SELECT a, b + 1 FROM t) SELECT * FROM t
-- stopped: a product of ranges
SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = 7
-- stopped: a product of products
SELECT max(a.range * b.range * c.range) FROM range(100000) a, range(100000) b, range(100000) c
-- stopped: a join that is not equal
SELECT count(*) FROM range(3000000) a JOIN range(3000000) b ON a.range * 7 % 11 < b.range * 5 % 13
-- stopped: a sort that is too large
SELECT * FROM range(2000000000) ORDER BY hash(range)
-- stopped: groups without end
SELECT range AS a, count(*) FROM range(4000000000) GROUP BY a
-- stopped: distinct rows without end
SELECT count(DISTINCT hash(range)) FROM range(4000000000)
-- stopped: a window over all
SELECT max(x) FROM (SELECT median(range) OVER (ORDER BY range ROWS BETWEEN 900000 PRECEDING AND 900000 FOLLOWING) AS x FROM range(3000000))
-- stopped: a list of everything
SELECT list(range) FROM range(3000000000)
-- stopped: texts of everything
SELECT string_agg(range, ',') FROM range(3000000000)
-- stopped: a long list
SELECT len(range(4000000000))
-- stopped: a list of lists
SELECT list_transform(range(20000), lambda x: range(200000)) AS a
-- stopped: work in a list
SELECT list_sum(list_transform(range(30000000), lambda x: list_sum(range(x)))) AS a
-- stopped: reduced
SELECT list_reduce(range(40000000), lambda x, y: hash(x + y) % 1000) FROM range(1000)
-- contained: sorted lists
SELECT list_sort(list_transform(range(50000000), lambda x: hash(x)))
-- stopped: a text of 4 GB
SELECT length(repeat('x', 4000000000))
-- stopped: texts of a lot
SELECT max(repeat(range::VARCHAR, 100000)) FROM range(10000000)
-- contained: texts that double
SELECT length(repeat(repeat(repeat(repeat('x', 2000), 2000), 2000), 2000))
-- stopped: padded
SELECT max(length(lpad(range::VARCHAR, 100000000, 'x'))) FROM range(100)
-- stopped: replaced and grown
SELECT length(replace(replace(repeat('x', 100000), 'x', repeat('y', 100000)), 'y', 'zz'))
-- contained: printed wide
SELECT printf('%1000000000d', 1)
-- contained: formatted wide
SELECT format('{:>1000000000}', 'x')
-- contained: a bit string of a lot
SELECT bitstring('1', 2000000000)
-- contained: a regular expression that explodes elsewhere
SELECT regexp_matches(repeat('a', 100000) || '!', '(a+)+$')
-- contained: a regular expression with large counts
SELECT regexp_matches(repeat('a', 10000), '((a{0,100}){0,100}){0,100}')
-- contained: many matches
SELECT len(regexp_extract_all(repeat('ab', 20000000), '(a|b)'))
-- contained: a pattern of LIKE
SELECT count(*) FROM range(3000000) WHERE repeat('a', 200) LIKE '%a%a%a%a%a%a%a%a%a%a%a%a%b'
-- contained: distances of long texts
SELECT levenshtein(repeat('ab', 100000), repeat('ba', 100000))
-- contained: more distances
SELECT damerau_levenshtein(repeat('ab', 30000), repeat('ba', 30000))
-- contained: a factorial
SELECT factorial(33), 10::HUGEINT ** 38
-- contained: a wide pivot
PIVOT (FROM range(200000)) ON range USING count(*)
-- contained: a wide pivot of texts
PIVOT (SELECT range::VARCHAR AS a, range % 7 AS b FROM range(50000)) ON a USING sum(b) GROUP BY b
-- contained: a wide row
SELECT «1,×4000» 2
-- contained: nested parentheses
SELECT «(×20000»1«)×20000»
-- contained: nested lists
SELECT «[×3000»1«]×3000»
-- contained: nested calls
SELECT «abs(×3000»1«)×3000»
-- contained: nested subqueries
«SELECT * FROM (×400»SELECT 1«)×400»
-- contained: a long sum
SELECT 1 «+ 1×30000»
-- contained: a long negation
SELECT «NOT ×20000»true
-- contained: a long condition
SELECT 1 WHERE true «AND true ×20000»
-- contained: a chain of CASE
SELECT «CASE WHEN true THEN ×2000»1«END ×2000»
-- contained: many tables joined
SELECT count(*) FROM range(2) «, range(2)×60»
-- contained: many unions
SELECT 1 «UNION ALL SELECT 1 ×3000»
-- contained: many WITHs
WITH a AS (SELECT 1), «b AS (SELECT 1), ×1»c AS (SELECT 1) SELECT * FROM a, b, c
-- contained: cubes of groups
SELECT count(*) FROM (SELECT «range AS a×1» FROM range(1000)) GROUP BY CUBE (a)
-- contained: JSON that is deep
SELECT json('«[×30000»«]×30000»')
-- contained: JSON that is wide
SELECT json_group_array(range) FROM range(30000000)
-- contained: a histogram of everything
SELECT histogram(range) FROM range(30000000)
-- contained: a map of everything
SELECT map_from_entries(list((range, range))) FROM range(30000000)
-- contained: sleeping
SELECT sleep_ms(100000)
-- contained: rows of text without end
SELECT repeat('x', 1000) AS a FROM range(1000000000)
-- contained: more rows than are sent
SELECT range FROM range(100000000)
-- contained: series of time
SELECT count(*) FROM generate_series(TIMESTAMP '0001-01-01', TIMESTAMP '9999-01-01', INTERVAL 1 MICROSECOND)
-- contained: repeated rows
SELECT count(*) FROM repeat_row(1, 2, num_rows = 1000000000000)
-- contained: unnested
SELECT count(*) FROM (SELECT unnest(range(100000000)), unnest(range(100000000)))
-- contained: as of
SELECT count(*) FROM range(5000000) a ASOF JOIN range(5000000) b ON a.range >= b.range
-- contained: sampled
SELECT count(*) FROM (FROM range(100000000) USING SAMPLE reservoir(50000000))
-- contained: an exact quantile
SELECT quantile_cont(range, range(0, 1000)::DOUBLE[]) FROM range(100000000)
-- contained: a mode of everything
SELECT mode(hash(range)) FROM range(200000000)
-- harmless: the unsealed points where they lie, and metrics named so that there are some
SELECT * FROM unsealed.points JOIN unsealed.names USING (place) WHERE EXISTS (FROM metrics)
-- harmless: the bytes that unsealed points come from
SELECT filename, content, (SELECT count(*) FROM metrics) FROM read_blob('points.msgpack')
