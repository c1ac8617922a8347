import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Properties;

/**
 * Logs in with pgjdbc. Each line of input is port, database, user, password, "tls" or "plain", certificate and key,
 * separated by tabs; each line of output the SQLSTATE, or "ok".
 */
public class Logins {
    static String outcome(String[] words) {
        Properties properties = new Properties();
        properties.put("user", words[2]);
        properties.put("password", words[3]);
        properties.put("connectTimeout", "10");
        properties.put("sslmode", words[4].equals("tls") ? "require" : "disable");
        if (!words[5].isEmpty()) {
            properties.put("sslcert", words[5]);
            properties.put("sslkey", words[6]);
        }
        try (Connection connection = DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + words[0] + "/" + words[1], properties)) {
            return connection.isValid(10) ? "ok" : "dead";
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            System.out.println(outcome(line.split("\t", -1)));
            System.out.flush();
        }
    }
}
