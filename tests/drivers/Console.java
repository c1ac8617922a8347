import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

/** The console with pgjdbc: Console PORT USER PASSWORD MODE; prints what it saw, one thing a line. */
public class Console {
    static void show(Connection connection, String name, int times) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SHOW " + name)) {
            for (int i = 0; i < times; i++) { // from the fifth on it has a name and binary results
                try (ResultSet rows = statement.executeQuery()) {
                    int count = 0;
                    while (rows.next()) {
                        count++;
                        for (int column = 1; column <= rows.getMetaData().getColumnCount(); column++) {
                            rows.getObject(column);
                        }
                    }
                    if (i == times - 1) {
                        System.out.println(name + " " + rows.getMetaData().getColumnCount() + " " + (count > 0));
                    }
                }
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("user", arguments[1]);
        properties.put("password", arguments[2]);
        properties.put("preferQueryMode", arguments[3]);
        try (Connection connection = DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + arguments[0] + "/pgbouncer", properties);
             Statement statement = connection.createStatement()) {
            for (String name : new String[] {"POOLS", "STATS", "LISTS", "DATABASES", "CONFIG", "CLIENTS"}) {
                show(connection, name, 7);
            }
            try (ResultSet rows = statement.executeQuery("SHOW STATS")) {
                while (rows.next()) {
                    if (rows.getString("database").equals("app")) {
                        System.out.println("queries " + rows.getLong("total_query_count") + " " + rows.getBigDecimal("total_query_count").equals(BigDecimal.ONE));
                    }
                }
            }
            for (String sql : new String[] {"PAUSE app", "RESUME app", "SET query_timeout = 7", "RELOAD"}) {
                System.out.println(sql + " " + statement.execute(sql));
            }
            try {
                statement.execute("PAUSE nowhere");
            } catch (SQLException error) {
                System.out.println(error.getSQLState());
            }
            System.out.println(connection.isValid(5));
        }
    }
}
