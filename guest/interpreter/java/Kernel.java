import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.atomic.AtomicLong;
import jdk.jshell.Diag;
import jdk.jshell.EvalException;
import jdk.jshell.JShell;
import jdk.jshell.JShellException;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.VarSnippet;
import sun.misc.Signal;

/** Java as a runtime of the code interpreter (coppice_bridge/runtime.py): JShell in this process, snippet by snippet. */
public class Kernel {
  // As of the jshell command.
  private static final String[] IMPORTS = {
    "java.io.*", "java.math.*", "java.net.*", "java.nio.file.*", "java.util.*", "java.util.concurrent.*",
    "java.util.function.*", "java.util.prefs.*", "java.util.regex.*", "java.util.stream.*",
  };

  private final FileOutputStream events = new FileOutputStream("/proc/self/fd/4");
  private final JShell shell;
  private volatile boolean running;
  private volatile boolean interrupted;

  private Kernel() throws IOException {
    System.setOut(utf8(FileDescriptor.out));
    System.setErr(utf8(FileDescriptor.err));
    shell = JShell.builder().executionEngine("local").out(System.out).err(System.err).build();
    Signal.handle(new Signal("INT"), signal -> interrupt());
  }

  public static void main(String[] args) throws Exception {
    new Kernel().serve();
    // Threads of the user's must not hold the process.
    Runtime.getRuntime().halt(0);
  }

  private void serve() throws IOException {
    for (String name : IMPORTS) shell.eval("import " + name + ";");
    tell("ready");
    var requests = new BufferedReader(new InputStreamReader(new FileInputStream("/proc/self/fd/3"), StandardCharsets.UTF_8));
    for (String request = requests.readLine(); request != null; request = requests.readLine()) {
      try {
        List<String> strings = payload();
        switch (request) {
          case "run" -> run(strings);
          case "env" -> assign(changes(strings));
          case "reseed" -> reseed(strings.get(1));
          default -> {}
        }
      } catch (ReflectiveOperationException | RuntimeException failure) {
        tell("error", "name", failure.getClass().getSimpleName(), "value", String.valueOf(failure.getMessage()), "traceback", "");
      }
      tell("done");
    }
  }

  private void run(List<String> strings) throws IOException, ReflectiveOperationException {
    int count = Integer.parseInt(strings.get(0));
    Map<String, String> variables = changes(strings.subList(1, 1 + count));
    Map<String, String> before = new LinkedHashMap<>();
    for (String name : variables.keySet()) before.put(name, System.getenv(name));
    assign(variables);
    interrupted = false;
    running = true;
    try {
      evaluate(strings.get(1 + count));
    } finally {
      running = false;
      System.out.flush();
      System.err.flush();
      assign(before);
    }
  }

  /** One snippet after the other, up to the first that fails. The value of the last one is the result. */
  private void evaluate(String code) throws IOException {
    String rest = code;
    String value = null;
    while (!rest.isBlank()) {
      SourceCodeAnalysis.CompletionInfo info = shell.sourceCodeAnalysis().analyzeCompletion(rest);
      // What is not complete is evaluated all the same: its error says why.
      boolean whole = info.completeness().isComplete() && info.source() != null;
      String source = whole ? info.source() : rest;
      rest = whole ? info.remaining() : "";
      value = null;
      for (SnippetEvent event : shell.eval(source)) {
        if (interrupted) {
          tellError("Interrupted", "The execution was interrupted", "Interrupted: The execution was interrupted");
          return;
        }
        if (event.exception() != null) {
          tellException(event.exception());
          return;
        }
        if (event.status() == Snippet.Status.REJECTED) {
          tellRejected(source, event.snippet());
          return;
        }
        if (event.causeSnippet() == null && isExpression(event.snippet())) value = event.value();
      }
    }
    System.out.flush();
    System.err.flush();
    if (value != null && !value.isEmpty()) tellResult(value);
  }

  private static boolean isExpression(Snippet snippet) {
    return snippet.kind() == Snippet.Kind.EXPRESSION
        || (snippet instanceof VarSnippet && snippet.subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND);
  }

  private void interrupt() {
    if (!running) return;
    interrupted = true;
    shell.stop();
  }

  // -- errors and results --------------------------------------------------------------------------------------------

  private void tellRejected(String source, Snippet snippet) throws IOException {
    var messages = new ArrayList<String>();
    for (Diag diag : (Iterable<Diag>) shell.diagnostics(snippet)::iterator) {
      if (!diag.isError()) continue;
      int end = Math.min((int) Math.max(diag.getPosition(), 0), source.length());
      long line = source.substring(0, end).chars().filter(c -> c == '\n').count() + 1;
      messages.add("line " + line + ": " + diag.getMessage(Locale.ROOT));
    }
    String value = messages.isEmpty() ? "the code cannot be compiled" : messages.get(0);
    tellError("CompilationError", value, String.join("\n", messages) + "\n" + source.strip());
  }

  private void tellException(JShellException exception) throws IOException {
    boolean evaluated = exception instanceof EvalException;
    String full = evaluated ? ((EvalException) exception).getExceptionClassName() : exception.getClass().getName();
    String name = full.substring(full.lastIndexOf('.') + 1);
    String message = exception.getMessage() == null ? "" : exception.getMessage();
    var traceback = new StringBuilder(full).append(message.isEmpty() ? "" : ": " + message);
    for (Throwable cause = exception; cause != null; cause = cause.getCause()) {
      if (cause != exception) traceback.append("\nCaused by: ").append(cause.getMessage());
      for (StackTraceElement frame : cause.getStackTrace()) {
        // The method that JShell puts a snippet into.
        boolean inSnippet = "do_it$".equals(frame.getMethodName()) || frame.getClassName().isEmpty();
        String place = inSnippet ? frame.getFileName() + ":" + frame.getLineNumber() : frame.toString();
        traceback.append("\n    at ").append(place);
      }
    }
    tellError(name, message, traceback.toString());
  }

  private void tellError(String name, String value, String traceback) throws IOException {
    System.out.flush();
    System.err.flush();
    tell("error", "name", name, "value", value, "traceback", traceback);
  }

  private void tellResult(String text) throws IOException {
    write("{\"type\":\"result\",\"main\":true,\"data\":{\"text/plain\":" + quoted(text) + "}}\n");
  }

  private void tell(String type, String... fields) throws IOException {
    var event = new StringBuilder("{\"type\":").append(quoted(type));
    for (int i = 0; i < fields.length; i += 2) event.append(',').append(quoted(fields[i])).append(':').append(quoted(fields[i + 1]));
    write(event.append("}\n").toString());
  }

  private void write(String line) throws IOException {
    events.write(line.getBytes(StandardCharsets.UTF_8));
  }

  private static String quoted(String text) {
    var quoted = new StringBuilder("\"");
    for (char c : text.toCharArray()) {
      if (c < ' ' || c == '"' || c == '\\' || Character.isSurrogate(c)) quoted.append(String.format("\\u%04x", (int) c));
      else quoted.append(c);
    }
    return quoted.append('"').toString();
  }

  // -- requests ------------------------------------------------------------------------------------------------------

  private static List<String> payload() throws IOException {
    String text = Files.readString(Path.of("/proc/self/fd/5"), StandardCharsets.UTF_8);
    return List.of(text.split("\0", -1));
  }

  /** NAME=value, or NAME alone to remove it: null. */
  private static Map<String, String> changes(List<String> strings) {
    Map<String, String> changes = new LinkedHashMap<>();
    for (String text : strings) {
      int end = text.indexOf('=');
      if (end > 0) changes.put(text.substring(0, end), text.substring(end + 1));
      else if (!text.isEmpty()) changes.put(text, null);
    }
    return changes;
  }

  /** Java has no way to change its environment; this is the map behind System.getenv and ProcessBuilder. */
  private static void assign(Map<String, String> changes) throws ReflectiveOperationException {
    if (changes.isEmpty()) return;
    Object unmodifiable = opened(Class.forName("java.lang.ProcessEnvironment"), "theUnmodifiableEnvironment").get(null);
    @SuppressWarnings("unchecked")
    var environment = (Map<String, String>) opened(Class.forName("java.util.Collections$UnmodifiableMap"), "m").get(unmodifiable);
    changes.forEach((name, value) -> {
      if (value == null) environment.remove(name);
      else environment.put(name, value);
    });
  }

  /** The generators that nobody has made and everybody shares. Those that user code has made are its own. */
  private static void reseed(String hex) throws ReflectiveOperationException {
    byte[] entropy = new BigInteger(hex, 16).toByteArray();
    long first = new BigInteger(hex.substring(0, 16), 16).longValue();
    long second = new BigInteger(hex.substring(16, 32), 16).longValue();
    new SecureRandom().setSeed(entropy);
    ((Random) opened(Class.forName("java.lang.Math$RandomNumberGeneratorHolder"), "randomNumberGenerator").get(null)).setSeed(first);
    Field shuffle = opened(java.util.Collections.class, "r");
    if (shuffle.get(null) instanceof Random random) random.setSeed(first ^ second);
    // Each thread takes its seed from it, and each snippet has a thread of its own.
    ((AtomicLong) opened(java.util.concurrent.ThreadLocalRandom.class, "seeder").get(null)).set(second);
  }

  private static Field opened(Class<?> type, String name) throws NoSuchFieldException {
    Field field = type.getDeclaredField(name);
    field.setAccessible(true);
    return field;
  }

  private static PrintStream utf8(FileDescriptor descriptor) {
    return new PrintStream(new FileOutputStream(descriptor), true, StandardCharsets.UTF_8);
  }
}
