// The contract with lib/pq under database/sql; contract.py says what is printed. Variants: lib-pq, where a query with
// values is prepared without a name and executed behind a Sync, and lib-pq-binary, which sends both at once.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lib/pq"
)

var (
	driver    = os.Args[1]
	ctx       = context.Background()
	statement = "SELECT $1::int * 3, pg_backend_pid() /* " + driver + " */"
	sleep     = "SELECT pg_sleep(30) /* " + driver + " */"
	open      []*sql.Conn
	pools     []*sql.DB
)

// A connection of its own: database/sql would take any.
func connect() *sql.Conn {
	dsn := ""
	if driver == "lib-pq-binary" {
		dsn = "binary_parameters=yes"
	}
	db := must(sql.Open("postgres", dsn))
	conn := must(db.Conn(ctx))
	open, pools = append(open, conn), append(pools, db)
	return conn
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func say(step string, results ...any) {
	line := strings.TrimSuffix(fmt.Sprintln(append([]any{step}, results...)...), "\n")
	fmt.Println(strings.ReplaceAll(line, "\n", " "))
}

func sqlstate(err error) string {
	var told *pq.Error
	if errors.As(err, &told) {
		return string(told.Code)
	}
	if err != nil {
		return err.Error()
	}
	return "00000"
}

type querier interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}

func value(from querier, query string, values ...any) (found int) {
	check(from.QueryRowContext(ctx, query, values...).Scan(&found))
	return
}

func execute(on querier, query string, values ...any) {
	must(on.ExecContext(ctx, query, values...))
}

func table(on querier) {
	execute(on, "DROP TABLE IF EXISTS contract; CREATE TABLE contract (id int, text text)")
}

func transactions() {
	one, other := connect(), connect()
	table(other)
	tx := must(one.BeginTx(ctx, nil))
	execute(tx, "INSERT INTO contract VALUES ($1, $2)", 1, "kept")
	check(tx.Commit())
	say("commit", value(other, "SELECT count(*) FROM contract"))
	tx = must(one.BeginTx(ctx, nil))
	execute(tx, "INSERT INTO contract VALUES ($1, $2)", 2, "gone")
	check(tx.Rollback())
	say("rollback", value(other, "SELECT count(*) FROM contract WHERE id = 2"))
}

// Does `work` while the backend `unwanted` is taken, so that whoever had it gets the other of two.
func whileTaken(held []*sql.Conn, unwanted int, work func()) {
	var holders []*sql.Tx
	var pids []int
	for _, holder := range held {
		tx := must(holder.BeginTx(ctx, nil))
		holders, pids = append(holders, tx), append(pids, value(tx, "SELECT pg_backend_pid()"))
	}
	free, kept := holders[0], holders[1]
	if pids[0] == unwanted {
		free, kept = kept, free
	}
	check(free.Rollback())
	work()
	check(kept.Rollback())
}

// Asks five times, each time on the other backend.
func moving(ask func(number int) (int, int)) (values []any, moves int) {
	last, held := 0, []*sql.Conn{connect(), connect()}
	for number := 0; number < 5; number++ {
		whileTaken(held, last, func() {
			found, pid := ask(number)
			if last != 0 && pid != last {
				moves++
			}
			values, last = append(values, found), pid
		})
	}
	return
}

func statementMoves() {
	one := connect()
	prepared := must(one.PrepareContext(ctx, statement))
	values, moves := moving(func(number int) (found int, pid int) {
		check(prepared.QueryRowContext(ctx, number).Scan(&found, &pid))
		return
	})
	say("values", values...)
	say("moves", moves)
	execute(one, "BEGIN")
	must(prepared.ExecContext(ctx, 5))
	like := "'%/* " + driver + " */'"
	say("prepared", value(one, "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE "+like))
	execute(one, "ROLLBACK")
}

func unnamedMoves() {
	one := connect()
	values, moves := moving(func(number int) (found int, pid int) {
		check(one.QueryRowContext(ctx, "SELECT $1::int * 5, pg_backend_pid()", number).Scan(&found, &pid))
		return
	})
	say("unnamed", values...)
	say("unnamed_moves", moves)
}

func bigResults() {
	rows := must(connect().QueryContext(ctx,
		"SELECT n::int, repeat(chr(97 + (n % 26)::int), 100) AS text FROM generate_series(1, 20000) n"))
	defer rows.Close()
	count, sum, length := 0, 0, 0
	for rows.Next() {
		var number int
		var text string
		check(rows.Scan(&number, &text))
		count, sum = count+1, sum+number
		if text == strings.Repeat(string(rune(97+number%26)), 100) {
			length += len(text)
		}
	}
	check(rows.Err())
	say("big", count, sum, length)
}

func copyIn() {
	one := connect()
	table(one)
	tx := must(one.BeginTx(ctx, nil))
	in := must(tx.PrepareContext(ctx, pq.CopyIn("contract", "id", "text")))
	for number := 1; number <= 1000; number++ {
		must(in.Exec(number, "x"))
	}
	must(in.Exec())
	check(in.Close())
	check(tx.Commit())
	say("copy", value(one, "SELECT count(*) FROM contract"), value(one, "SELECT sum(id) FROM contract"))
	tx = must(one.BeginTx(ctx, nil))
	in = must(tx.PrepareContext(ctx, pq.CopyIn("contract", "id", "text")))
	must(in.Exec("none", "x"))
	_, err := in.Exec()
	in.Close()
	check(tx.Rollback())
	say("copy_error", sqlstate(err), value(one, "SELECT count(*) FROM contract"))
}

func failures() {
	one := connect()
	wrong := func(on querier) string {
		_, err := on.ExecContext(ctx, "SELECT 1 / $1::int", 0)
		return sqlstate(err)
	}
	say("error", wrong(one), value(one, "SELECT 1"))
	tx := must(one.BeginTx(ctx, nil))
	first := wrong(tx)
	_, err := tx.ExecContext(ctx, "SELECT 1")
	check(tx.Rollback())
	say("error_in_transaction", first, sqlstate(err), value(one, "SELECT 1"))
}

func cancel() {
	one, other := connect(), connect()
	limited, stop := context.WithCancel(ctx)
	ended := make(chan error)
	go func() {
		_, err := one.ExecContext(limited, sleep)
		ended <- err
	}()
	active := "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '" + sleep + "'"
	for value(other, active) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	state := sqlstate(<-ended)
	say("cancel", state, value(other, active))
}

func notify() {
	listener := pq.NewListener("", time.Second, time.Second, nil)
	defer listener.Close()
	check(listener.Listen("contract"))
	execute(connect(), "NOTIFY contract, 'told'")
	select {
	case told := <-listener.Notify:
		say("notify", told.Channel, told.Extra)
	case <-time.After(10 * time.Second):
		say("notify", "nobody told")
	}
}

// What of makes of the first row of a statement that has changed, or why there is none.
func attempt(prepared *sql.Stmt, of func(*sql.Rows) any) any {
	rows, err := prepared.QueryContext(ctx, "x")
	if err != nil {
		return sqlstate(err)
	}
	defer rows.Close()
	if !rows.Next() {
		return sqlstate(rows.Err())
	}
	return of(rows)
}

func width(rows *sql.Rows) any {
	return len(must(rows.Columns()))
}

func identity(rows *sql.Rows) any {
	var id, pid int
	var text string
	if err := rows.Scan(&id, &text, &pid); err != nil {
		return "unreadable"
	}
	return id
}

func changed() {
	one, other, holder := connect(), connect(), connect()
	execute(holder, "BEGIN; SELECT 1") // so that a pool of two has one backend left for the two others
	table(other)
	execute(other, "INSERT INTO contract VALUES (1, 'x')")
	prepared := must(one.PrepareContext(ctx, "SELECT * FROM contract WHERE text = $1 -- "+driver))
	found := []any{attempt(prepared, width), attempt(prepared, width)}
	execute(other, "ALTER TABLE contract ADD added int")
	say("changed", append(found, attempt(prepared, width), attempt(prepared, width))...)
}

// The same where the backend that first runs it afterwards has not seen it before.
func changedElsewhere(step string, change string, of func(*sql.Rows) any) {
	one, held := connect(), []*sql.Conn{connect(), connect()}
	table(held[0])
	execute(held[0], "INSERT INTO contract VALUES (1, 'x')")
	prepared := must(one.PrepareContext(ctx, "SELECT *, pg_backend_pid() FROM contract WHERE text = $1 -- "+driver+" "+step))
	var id, pid int
	var text string
	check(prepared.QueryRowContext(ctx, "x").Scan(&id, &text, &pid))
	found := []any{attempt(prepared, of)}
	execute(held[0], "ALTER TABLE contract "+change)
	whileTaken(held, pid, func() {
		found = append(found, attempt(prepared, of), attempt(prepared, of))
	})
	say(step, found...)
}

func guarded(name string, step func()) {
	defer func() {
		if err := recover(); err != nil {
			say(name, "failed:", err)
		}
		for i, conn := range open {
			conn.Close()
			pools[i].Close()
		}
		open, pools = nil, nil
	}()
	step()
}

func main() {
	guarded("transactions", transactions)
	guarded("statementMoves", statementMoves)
	guarded("unnamedMoves", unnamedMoves)
	guarded("bigResults", bigResults)
	guarded("copyIn", copyIn)
	guarded("failures", failures)
	guarded("cancel", cancel)
	guarded("notify", notify)
	guarded("changed", changed)
	guarded("widenedElsewhere", func() { changedElsewhere("widened_elsewhere", "ADD added int", width) })
	guarded("retypedElsewhere", func() {
		changedElsewhere("retyped_elsewhere", "ALTER id TYPE bigint", identity)
	})
}
