import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.stream.Collectors;
import org.mlflow.api.proto.Service.CreateRun;
import org.mlflow.api.proto.Service.Experiment;
import org.mlflow.api.proto.Service.FileInfo;
import org.mlflow.api.proto.Service.Metric;
import org.mlflow.api.proto.Service.Param;
import org.mlflow.api.proto.Service.Run;
import org.mlflow.api.proto.Service.RunInfo;
import org.mlflow.api.proto.Service.RunStatus;
import org.mlflow.api.proto.Service.RunTag;
import org.mlflow.api.proto.Service.ViewType;
import org.mlflow.tracking.ActiveRun;
import org.mlflow.tracking.ExperimentsPage;
import org.mlflow.tracking.MlflowClient;
import org.mlflow.tracking.MlflowContext;
import org.mlflow.tracking.MlflowHttpException;
import org.mlflow.tracking.Page;
import org.mlflow.tracking.RunsPage;

/**
 * MLflow's Java client against a server: everything that a user of it does, checked one by one.
 *
 * <p>Arguments: the server's address, a folder to work in. Prints one line for each check that
 * held, and ends with an exception at the first that did not.
 */
public final class ClientAcceptance {
  private static int checks = 0;

  private static void check(String what, boolean holds) {
    if (!holds) {
      throw new IllegalStateException("NOT TRUE: " + what);
    }
    checks++;
    System.out.println("ok " + what);
  }

  private static void equal(String what, Object expected, Object found) {
    check(what + ": " + found, expected.equals(found));
  }

  private static Metric metric(String key, double value, long timestamp, long step) {
    return Metric.newBuilder()
        .setKey(key)
        .setValue(value)
        .setTimestamp(timestamp)
        .setStep(step)
        .build();
  }

  public static void main(String[] arguments) throws Exception {
    String address = arguments[0];
    Path folder = Files.createDirectories(Path.of(arguments[1]));
    try (MlflowClient client = new MlflowClient(address)) {
      String experiment = experiments(client);
      String run = runs(client, experiment);
      batches(client, run);
      searches(client, experiment, run);
      artifacts(client, run, folder);
      deletions(client, experiment, run);
      refusals(client, run);
      fluent(client);
    }
    System.out.println("all " + checks + " checks held");
  }

  private static String experiments(MlflowClient client) {
    String id = client.createExperiment("java experiment");
    Experiment made = client.getExperiment(id);
    equal("the name of a new experiment", "java experiment", made.getName());
    equal("its stage", "active", made.getLifecycleStage());
    Optional<Experiment> byName = client.getExperimentByName("java experiment");
    equal("the experiment by its name", id, byName.get().getExperimentId());
    check("no experiment of an unknown name", !client.getExperimentByName("nothing").isPresent());
    client.setExperimentTag(id, "team", "vision");
    equal("a tag", "vision", client.getExperiment(id).getTags(0).getValue());
    client.renameExperiment(id, "java renamed");
    equal("the new name", "java renamed", client.getExperiment(id).getName());
    ExperimentsPage page = client.searchExperiments("name LIKE 'java%'");
    equal("experiments found", 1, page.getItems().size());
    ExperimentsPage first =
        client.searchExperiments("", ViewType.ALL, 1, Collections.singletonList("name ASC"));
    check("a page of one, and a token for the next", first.getNextPageToken().isPresent());
    Page<Experiment> next = first.getNextPage();
    Experiment other = next.getItems().iterator().next();
    check("the next page has another", !other.equals(first.getItems().get(0)));
    return id;
  }

  private static String runs(MlflowClient client, String experiment) {
    CreateRun.Builder asked =
        CreateRun.newBuilder()
            .setExperimentId(experiment)
            .setStartTime(1_000)
            .setUserId("ada")
            .setRunName("first")
            .addTags(RunTag.newBuilder().setKey("lang").setValue("java"));
    RunInfo info = client.createRun(asked.build());
    String run = info.getRunId();
    equal("run_uuid beside run_id", run, info.getRunUuid());
    equal("the user", "ada", info.getUserId());
    client.logParam(run, "lr", "0.1");
    client.logParam(run, "lr", "0.1");
    client.logMetric(run, "loss", 0.5);
    client.logMetric(run, "curve", 1.0, 10, 0);
    client.logMetric(run, "curve", 0.25, 20, 1);
    client.logMetric(run, "nan", Double.NaN, 1, 0);
    client.logMetric(run, "inf", Double.POSITIVE_INFINITY, 1, 0);
    client.logMetric(run, "ninf", Double.NEGATIVE_INFINITY, 1, 0);
    client.setTag(run, "kind", "test");
    client.setTag(run, "gone", "soon");
    client.deleteTag(run, "gone");
    client.setTerminated(run, RunStatus.FINISHED, 2_000);
    Run read = client.getRun(run);
    equal("the status", RunStatus.FINISHED, read.getInfo().getStatus());
    equal("the start", 1_000L, read.getInfo().getStartTime());
    equal("the end", 2_000L, read.getInfo().getEndTime());
    equal("the name", "first", read.getInfo().getRunName());
    equal("the params", 1, read.getData().getParamsCount());
    equal("a param", "0.1", read.getData().getParams(0).getValue());
    List<String> tags =
        read.getData().getTagsList().stream()
            .map(tag -> tag.getKey() + "=" + tag.getValue())
            .sorted()
            .collect(Collectors.toList());
    equal("the tags", Arrays.asList("kind=test", "lang=java", "mlflow.runName=first"), tags);
    equal("latest of the curve", 0.25, latest(read, "curve"));
    check("NaN comes back as NaN", Double.isNaN(latest(read, "nan")));
    equal("infinity as the greatest double", Double.MAX_VALUE, latest(read, "inf"));
    equal("and its negative", -Double.MAX_VALUE, latest(read, "ninf"));
    List<Metric> history = client.getMetricHistory(run, "curve");
    equal("points of the curve", 2, history.size());
    equal("the first step", 0L, history.get(0).getStep());
    equal("the second's time", 20L, history.get(1).getTimestamp());
    return run;
  }

  private static double latest(Run run, String key) {
    return run.getData().getMetricsList().stream()
        .filter(metric -> metric.getKey().equals(key))
        .findFirst()
        .get()
        .getValue();
  }

  private static void batches(MlflowClient client, String run) {
    List<Metric> metrics = new ArrayList<>();
    for (int step = 0; step < 500; step++) {
      metrics.add(metric("batch", step * 0.5, 1_000 + step, step));
    }
    metrics.add(metric("far", 1.0, Long.MAX_VALUE, -5));
    List<Param> params = new ArrayList<>();
    List<RunTag> tags = new ArrayList<>();
    for (int number = 0; number < 50; number++) {
      params.add(Param.newBuilder().setKey("p" + number).setValue("ünï " + number).build());
      tags.add(RunTag.newBuilder().setKey("t" + number).setValue("v" + number).build());
    }
    client.logBatch(run, metrics, params, tags);
    client.logBatch(run, null, null, null);
    equal("points of the batch", 500, client.getMetricHistory(run, "batch").size());
    Metric far = client.getMetricHistory(run, "far").get(0);
    equal("a timestamp of 63 bits", Long.MAX_VALUE, far.getTimestamp());
    equal("a negative step", -5L, far.getStep());
    Run read = client.getRun(run);
    equal("params after the batch", 51, read.getData().getParamsCount());
    equal("tags after the batch", 53, read.getData().getTagsCount());
    check(
        "a text of other letters",
        read.getData().getParamsList().stream().anyMatch(it -> it.getValue().equals("ünï 7")));
  }

  private static void searches(MlflowClient client, String experiment, String run) {
    for (int number = 0; number < 4; number++) {
      CreateRun.Builder asked =
          CreateRun.newBuilder().setExperimentId(experiment).setStartTime(5_000 + number);
      String made = client.createRun(asked.build()).getRunId();
      client.logMetric(made, "score", number, 1, 0);
    }
    List<String> here = Collections.singletonList(experiment);
    equal("runs of the experiment", 5, client.searchRuns(here, "").size());
    equal("runs with a score", 2, client.searchRuns(here, "metrics.score > 1").size());
    equal("runs by a param", 1, client.searchRuns(here, "params.lr = '0.1'").size());
    equal("runs by a tag", run, client.searchRuns(here, "tags.lang LIKE 'ja%'").get(0).getRunId());
    List<String> order = Collections.singletonList("metrics.score DESC");
    RunsPage page = client.searchRuns(here, "", ViewType.ACTIVE_ONLY, 2, order);
    equal("the best score", 3.0, latest(page.getItems().get(0), "score"));
    int found = page.getItems().size();
    Page<Run> more = page;
    while (more.getNextPageToken().isPresent()) {
      more = more.getNextPage();
      for (Run ignored : more.getItems()) {
        found++;
      }
    }
    equal("runs on all pages", 5, found);
  }

  private static void artifacts(MlflowClient client, String run, Path folder) throws IOException {
    Path file = folder.resolve("notes.txt");
    Files.write(file, "from Java: ünï".getBytes(StandardCharsets.UTF_8));
    Path tree = Files.createDirectories(folder.resolve("tree").resolve("deep"));
    Files.write(tree.resolve("bytes.bin"), new byte[100_000]);
    client.logArtifact(run, file.toFile());
    client.logArtifacts(run, folder.resolve("tree").toFile(), "folder");
    List<String> listed =
        client.listArtifacts(run).stream().map(FileInfo::getPath).sorted().collect(Collectors.toList());
    equal("artifacts", Arrays.asList("folder", "notes.txt"), listed);
    equal("below", "folder/deep", client.listArtifacts(run, "folder").get(0).getPath());
    File back = client.downloadArtifacts(run, "notes.txt");
    equal(
        "the text of an artifact",
        "from Java: ünï",
        new String(Files.readAllBytes(back.toPath()), StandardCharsets.UTF_8));
    File all = client.downloadArtifacts(run, "folder");
    equal("bytes", 100_000L, new File(all, "deep/bytes.bin").length());
  }

  private static void deletions(MlflowClient client, String experiment, String run) {
    client.deleteRun(run);
    equal("a deleted run", "deleted", client.getRun(run).getInfo().getLifecycleStage());
    List<String> here = Collections.singletonList(experiment);
    equal("active ones", 4, client.searchRuns(here, "").size());
    equal("deleted ones", 1, client.searchRuns(here, "", ViewType.DELETED_ONLY).size());
    client.restoreRun(run);
    equal("a restored run", "active", client.getRun(run).getInfo().getLifecycleStage());
    client.deleteExperiment(experiment);
    Experiment gone = client.getExperiment(experiment);
    equal("a deleted experiment", "deleted", gone.getLifecycleStage());
    client.restoreExperiment(experiment);
    Experiment back = client.getExperiment(experiment);
    equal("a restored experiment", "active", back.getLifecycleStage());
  }

  private static void refused(String what, int status, String code, Runnable call) {
    try {
      call.run();
    } catch (MlflowHttpException refusal) {
      equal(what, status, refusal.getStatusCode());
      check(what + " says " + code, refusal.getBodyMessage().contains(code));
      return;
    }
    throw new IllegalStateException("NOT REFUSED: " + what);
  }

  private static void refusals(MlflowClient client, String run) {
    refused("a param of another value", 400, "INVALID_PARAMETER_VALUE",
        () -> client.logParam(run, "lr", "0.2"));
    refused("an unknown run", 404, "RESOURCE_DOES_NOT_EXIST",
        () -> client.logParam("0123456789abcdef0123456789abcdef", "a", "b"));
    refused("a name that is taken", 400, "RESOURCE_ALREADY_EXISTS",
        () -> client.createExperiment("java renamed"));
    refused("a bad key", 400, "INVALID_PARAMETER_VALUE", () -> client.logMetric(run, "a;b", 1.0));
  }

  private static void fluent(MlflowClient client) {
    MlflowContext context = new MlflowContext(client);
    context.setExperimentName("java renamed");
    ActiveRun parent = context.startRun("parent");
    parent.logParam("a", "1");
    ActiveRun child = context.startRun("child", parent.getId());
    child.logMetric("m", 2.0, 1);
    child.endRun();
    parent.endRun(RunStatus.KILLED);
    equal("the parent", RunStatus.KILLED, client.getRun(parent.getId()).getInfo().getStatus());
    boolean linked =
        client.getRun(child.getId()).getData().getTagsList().stream()
            .anyMatch(
                tag ->
                    tag.getKey().equals("mlflow.parentRunId")
                        && tag.getValue().equals(parent.getId()));
    check("the child names its parent", linked);
  }
}
