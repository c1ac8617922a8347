import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

/** pgjdbc with server-side prepared statements from the first use: Minute url user password clients seconds. */
public class Minute {
    static final AtomicLong rounds = new AtomicLong();
    static final Queue<String> errors = new ConcurrentLinkedQueue<>();

    static void check(Connection connection, String sql, int value, int expected) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.setInt(1, value);
            try (ResultSet rows = statement.executeQuery()) {
                if (!rows.next() || rows.getInt(1) != expected) {
                    throw new IllegalStateException(sql + " with " + value + " is not " + expected);
                }
            }
        }
    }

    static void run(String url, String user, String password, int number, long ends) {
        Properties properties = new Properties();
        properties.put("user", user);
        properties.put("password", password);
        properties.put("prepareThreshold", number % 2 == 0 ? "1" : "3");
        properties.put("autosave", number % 3 == 0 ? "always" : "never");
        Random random = new Random(number);
        try (Connection connection = DriverManager.getConnection(url, properties)) {
            while (System.nanoTime() < ends) {
                int value = random.nextInt(1000);
                check(connection, "SELECT ? * " + number, value, value * number);
                check(connection, "SELECT ?", value, value);
                if (random.nextInt(10) == 0) {
                    connection.setAutoCommit(false);
                    check(connection, "SELECT ? + 1", value, value + 1);
                    check(connection, "SELECT ? * " + number, value, value * number);
                    if (random.nextBoolean()) {
                        connection.commit();
                    } else {
                        connection.rollback();
                    }
                    connection.setAutoCommit(true);
                }
                rounds.incrementAndGet();
            }
        } catch (Exception error) {
            errors.add(number + ": " + error);
        }
    }

    public static void main(String[] args) throws Exception {
        int clients = Integer.parseInt(args[3]);
        long ends = System.nanoTime() + (long) (Double.parseDouble(args[4]) * 1e9);
        ExecutorService threads = Executors.newFixedThreadPool(clients);
        for (int number = 1; number <= clients; number++) {
            int own = number;
            threads.submit(() -> run(args[0], args[1], args[2], own, ends));
        }
        threads.shutdown();
        threads.awaitTermination(300, TimeUnit.SECONDS);
        System.out.println(rounds.get() + " rounds, " + errors.size() + " errors " + errors.stream().limit(3).toList());
        System.exit(errors.isEmpty() ? 0 : 1);
    }
}
