import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

/**
 * The contract with pgjdbc; contract.py says what is printed. Variants: pgjdbc prepares at the first use,
 * pgjdbc-autosave also sets a savepoint before each statement, pgjdbc-simple uses the simple protocol only.
 */
public class Contract {
    static String driver;
    static String statement;
    static final String BIG =
        "SELECT n::int, repeat(chr(97 + (n % 26)::int), 100) AS text FROM generate_series(1, 20000) n";
    static final List<Connection> open = new ArrayList<>();

    interface Step {
        void run() throws Exception;
    }

    static Connection connect() throws SQLException {
        Properties properties = new Properties();
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        properties.put("prepareThreshold", "1");
        properties.put("autosave", driver.equals("pgjdbc-autosave") ? "always" : "never");
        properties.put("preferQueryMode", driver.equals("pgjdbc-simple") ? "simple" : "extended");
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/"
            + System.getenv("PGDATABASE");
        Connection connection = DriverManager.getConnection(url, properties);
        open.add(connection);
        return connection;
    }

    static void say(String step, Object... results) {
        StringBuilder line = new StringBuilder(step);
        for (Object result : results) {
            line.append(' ').append(String.valueOf(result).replace('\n', ' '));
        }
        System.out.println(line);
    }

    static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static void insert(Connection connection, int id, String text) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO contract VALUES (?, ?)")) {
            insert.setInt(1, id);
            insert.setString(2, text);
            insert.executeUpdate();
        }
    }

    /** Columns of the first row, as numbers. */
    static int[] row(PreparedStatement statement, int value) throws SQLException {
        statement.setInt(1, value);
        try (ResultSet rows = statement.executeQuery()) {
            int[] found = new int[rows.getMetaData().getColumnCount()];
            rows.next();
            for (int i = 0; i < found.length; i++) {
                found[i] = rows.getInt(i + 1);
            }
            return found;
        }
    }

    static int value(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getInt(1);
        }
    }

    static String sqlstate(Step step) throws Exception {
        try {
            step.run();
            return "00000";
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    static void table(Connection connection) throws SQLException {
        execute(connection, "DROP TABLE IF EXISTS contract");
        execute(connection, "CREATE TABLE contract (id int, text text)");
    }

    static void transactions() throws Exception {
        Connection one = connect();
        Connection other = connect();
        table(other);
        one.setAutoCommit(false);
        insert(one, 1, "kept");
        one.commit();
        say("commit", value(other, "SELECT count(*) FROM contract"));
        insert(one, 2, "gone");
        one.rollback();
        say("rollback", value(other, "SELECT count(*) FROM contract WHERE id = 2"));
        Savepoint savepoint = one.setSavepoint();
        insert(one, 3, "gone");
        sqlstate(() -> value(one, "SELECT 1 / 0"));
        one.rollback(savepoint);
        insert(one, 4, "kept");
        one.commit();
        say("savepoint", value(other, "SELECT min(id) FROM contract"), value(other, "SELECT sum(id) FROM contract"));
    }

    /** Does the step while the backend `unwanted` is taken, so that whoever had it gets the other of two. */
    static void whileTaken(Connection[] held, int unwanted, Step step) throws Exception {
        Map<Integer, Connection> owners = new LinkedHashMap<>();
        for (Connection holder : held) {
            holder.setAutoCommit(false);
            owners.put(value(holder, "SELECT pg_backend_pid()"), holder);
        }
        for (Map.Entry<Integer, Connection> owner : owners.entrySet()) {
            if (owner.getKey() != unwanted) {
                owner.getValue().rollback();
                break;
            }
        }
        step.run();
        for (Connection holder : held) {
            holder.rollback();
            holder.setAutoCommit(true);
        }
    }

    static void statementMoves() throws Exception {
        Connection one = connect();
        Connection[] held = {connect(), connect()};
        List<Object> values = new ArrayList<>();
        List<Integer> pids = new ArrayList<>();
        try (PreparedStatement ask = one.prepareStatement(statement)) {
            for (int number = 0; number < 5; number++) {
                int own = number;
                whileTaken(held, pids.isEmpty() ? 0 : pids.get(number - 1), () -> {
                    int[] found = row(ask, own);
                    values.add(found[0]);
                    pids.add(found[1]);
                });
            }
            say("values", values.toArray());
            int moves = 0;
            for (int i = 1; i < pids.size(); i++) {
                moves += pids.get(i).equals(pids.get(i - 1)) ? 0 : 1;
            }
            say("moves", moves);
            one.setAutoCommit(false);
            row(ask, 5);
            String like = "'%/* " + driver + " */'";
            say("prepared", value(one, "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE " + like));
            one.rollback();
        }
    }

    static void batch() throws Exception {
        Connection one = connect();
        table(one);
        try (PreparedStatement insert = one.prepareStatement("INSERT INTO contract VALUES (?, ?)")) {
            for (int number = 1; number <= 500; number++) {
                insert.setInt(1, number);
                insert.setString(2, "many");
                insert.addBatch();
            }
            insert.executeBatch();
        }
        say("many", value(one, "SELECT count(*) FROM contract WHERE text = 'many'"));
    }

    static void big(String step, Connection connection, int fetchSize) throws SQLException {
        int count = 0;
        long sum = 0;
        long length = 0;
        try (PreparedStatement ask = connection.prepareStatement(BIG)) {
            ask.setFetchSize(fetchSize);
            try (ResultSet rows = ask.executeQuery()) {
                while (rows.next()) {
                    int number = rows.getInt(1);
                    String expected = String.valueOf((char) (97 + number % 26)).repeat(100);
                    count++;
                    sum += number;
                    length += rows.getString(2).equals(expected) ? 100 : 0;
                }
            }
        }
        say(step, count, sum, length);
    }

    static void bigResults() throws Exception {
        Connection one = connect();
        big("big", one, 0);
        one.setAutoCommit(false);
        big("cursor", one, 1000);
        one.commit();
    }

    static void copy() throws Exception {
        Connection one = connect();
        table(one);
        StringBuilder lines = new StringBuilder();
        for (int number = 1; number <= 1000; number++) {
            lines.append(number).append("\tx\n");
        }
        CopyManager manager = one.unwrap(PGConnection.class).getCopyAPI();
        manager.copyIn("COPY contract FROM STDIN", new StringReader(lines.toString()));
        StringWriter out = new StringWriter();
        manager.copyOut("COPY (SELECT * FROM contract ORDER BY id) TO STDOUT", out);
        boolean isSame = out.toString().equals(lines.toString());
        say("copy", value(one, "SELECT count(*) FROM contract"), isSame);
        String state = sqlstate(
            () -> manager.copyIn("COPY contract FROM STDIN", new StringReader("1\tx\nnone\tx\n")));
        say("copy_error", state, value(one, "SELECT count(*) FROM contract"));
    }

    static void errors() throws Exception {
        Connection one = connect();
        Step wrong = () -> {
            try (PreparedStatement ask = one.prepareStatement("SELECT 1 / ?")) {
                row(ask, 0);
            }
        };
        say("error", sqlstate(wrong), value(one, "SELECT 1"));
        one.setAutoCommit(false);
        String first = sqlstate(wrong);
        String second = sqlstate(() -> value(one, "SELECT 1"));
        one.rollback();
        say("error_in_transaction", first, second, value(one, "SELECT 1"));
    }

    static void cancel() throws Exception {
        Connection one = connect();
        Connection other = connect();
        String sleep = "SELECT pg_sleep(30) /* " + driver + " */";
        String active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '" + sleep + "'";
        Statement statement = one.createStatement();
        CompletableFuture<String> ended = new CompletableFuture<>();
        new Thread(() -> {
            try {
                ended.complete(sqlstate(() -> statement.execute(sleep)));
            } catch (Exception error) {
                ended.completeExceptionally(error);
            }
        }).start();
        while (value(other, active) == 0) {
            Thread.sleep(10);
        }
        statement.cancel();
        say("cancel", ended.get(), value(one, "SELECT 1"));
    }

    static void notifications() throws Exception {
        Connection one = connect();
        execute(one, "LISTEN contract");
        execute(connect(), "NOTIFY contract, 'told'");
        var told = one.unwrap(PGConnection.class).getNotifications(10000);
        say("notify", told[0].getName(), told[0].getParameter());
    }

    /** The columns of a row of a statement that has changed, or its first field, or why there is none. */
    static String attempt(PreparedStatement ask, boolean isWidth) throws Exception {
        try {
            ask.setString(1, "x");
            try (ResultSet rows = ask.executeQuery()) {
                rows.next();
                return String.valueOf(isWidth ? rows.getMetaData().getColumnCount() : rows.getInt(1));
            }
        } catch (SQLException error) {
            return error.getSQLState();
        } catch (RuntimeException error) {
            return error.getClass().getSimpleName();
        }
    }

    static void changed() throws Exception {
        Connection one = connect();
        Connection other = connect();
        Connection holder = connect();
        holder.setAutoCommit(false);
        execute(holder, "SELECT 1"); // so that a pool of two has one backend left for the two others
        table(other);
        insert(other, 1, "x");
        try (PreparedStatement ask = one.prepareStatement("SELECT * FROM contract WHERE text = ? -- " + driver)) {
            String before = attempt(ask, true) + " " + attempt(ask, true);
            execute(other, "ALTER TABLE contract ADD added int");
            say("changed", before, attempt(ask, true), attempt(ask, true));
        }
    }

    /** The same where the backend that first runs it afterwards has not seen it before. */
    static void changedElsewhere(String step, String change, boolean isWidth) throws Exception {
        Connection one = connect();
        Connection[] held = {connect(), connect()};
        table(held[0]);
        insert(held[0], 1, "x");
        String text = "SELECT *, pg_backend_pid() FROM contract WHERE text = ? -- " + driver + " " + step;
        try (PreparedStatement ask = one.prepareStatement(text)) {
            List<Object> found = new ArrayList<>();
            int[] pid = new int[1];
            // Twice at least: the first answer tells the driver which columns it may ask for in binary.
            for (int i = 0; i < 2; i++) {
                found.add(attempt(ask, isWidth));
                try (ResultSet rows = ask.executeQuery()) {
                    rows.next();
                    pid[0] = rows.getInt(3);
                }
            }
            execute(held[0], "ALTER TABLE contract " + change);
            whileTaken(held, pid[0], () -> {
                found.add(attempt(ask, isWidth));
                found.add(attempt(ask, isWidth));
            });
            say(step, found.toArray());
        }
    }

    /** What the driver asks of the database on behalf of tools. */
    static void metadata() throws Exception {
        Connection one = connect();
        table(one);
        StringBuilder found = new StringBuilder();
        try (ResultSet rows = one.getMetaData().getColumns(null, "public", "contract", null)) {
            while (rows.next()) {
                found.append(rows.getString("COLUMN_NAME")).append(':').append(rows.getString("TYPE_NAME")).append(' ');
            }
        }
        String digits = "show extra_float_digits";
        try (Statement statement = one.createStatement(); ResultSet rows = statement.executeQuery(digits)) {
            rows.next();
            say("metadata", found + rows.getString(1), one.getTransactionIsolation(), one.getSchema());
        }
    }

    public static void main(String[] args) throws Exception {
        driver = args[0];
        statement = "SELECT ?::int * 3, pg_backend_pid() /* " + driver + " */";
        Map<String, Step> steps = new LinkedHashMap<>();
        steps.put("transactions", Contract::transactions);
        steps.put("statementMoves", Contract::statementMoves);
        steps.put("batch", Contract::batch);
        steps.put("bigResults", Contract::bigResults);
        steps.put("copy", Contract::copy);
        steps.put("errors", Contract::errors);
        steps.put("cancel", Contract::cancel);
        steps.put("notifications", Contract::notifications);
        steps.put("changed", Contract::changed);
        steps.put("widened", () -> changedElsewhere("widened_elsewhere", "ADD added int", true));
        steps.put("retyped", () -> changedElsewhere("retyped_elsewhere", "ALTER id TYPE bigint", false));
        steps.put("metadata", Contract::metadata);
        for (Map.Entry<String, Step> step : steps.entrySet()) {
            try {
                step.getValue().run();
            } catch (Exception error) {
                say(step.getKey(), "failed:", error);
            }
            for (Connection connection : open) {
                connection.close();
            }
            open.clear();
        }
    }
}
