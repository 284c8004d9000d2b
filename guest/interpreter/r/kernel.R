# R as a runtime of the code interpreter (coppice_bridge/runtime.py).

local({
  # Text as JSON; control characters that have no short escape become spaces.
  quoted <- function(text) {
    text <- enc2utf8(paste(as.character(text), collapse = "\n"))
    text <- gsub("\\", "\\\\", text, fixed = TRUE)
    text <- gsub("\"", "\\\"", text, fixed = TRUE)
    text <- gsub("\n", "\\n", text, fixed = TRUE)
    text <- gsub("\r", "\\r", text, fixed = TRUE)
    text <- gsub("\t", "\\t", text, fixed = TRUE)
    paste0("\"", gsub("[[:cntrl:]]", " ", text), "\"")
  }

  events <- file("/proc/self/fd/4", "wb", raw = TRUE)
  tell <- function(line) suspendInterrupts({
    writeBin(charToRaw(paste0(line, "\n")), events)
    flush(events)
  })
  tell_error <- function(name, value, traceback) {
    tell(sprintf(
      "{\"type\":\"error\",\"name\":%s,\"value\":%s,\"traceback\":%s}", quoted(name), quoted(value), quoted(traceback)
    ))
  }
  # `data`: a list, MIME type -> JSON text.
  tell_result <- function(main, data) {
    pairs <- paste0(vapply(names(data), quoted, ""), ":", unlist(data), collapse = ",")
    tell(sprintf("{\"type\":\"result\",\"main\":%s,\"data\":{%s}}", if (main) "true" else "false", pairs))
  }

  # -- values -------------------------------------------------------------------------------------------------------

  # A value as JSON, or NULL: lists and atomic vectors, not-a-number as null.
  json <- function(value, scalar = TRUE) {
    if (is.null(value)) return("null")
    if (is.data.frame(value) || is.factor(value) || inherits(value, c("Date", "POSIXt"))) value <- as_plain(value)
    if (is.null(value) || length(value) > 2e5) return(NULL)
    if (is.list(value)) {
      items <- lapply(value, json)
      if (any(vapply(items, is.null, NA))) return(NULL)
    } else if (is.character(value)) {
      items <- ifelse(is.na(value), "null", vapply(value, quoted, "", USE.NAMES = FALSE))
    } else if (is.logical(value)) {
      items <- ifelse(is.na(value), "null", ifelse(value, "true", "false"))
    } else if (is.numeric(value)) {
      items <- ifelse(is.finite(value), formatC(value, digits = 15, width = 1, format = "g"), "null")
    } else {
      return(NULL)
    }
    labels <- names(value)
    if (!is.null(labels)) return(paste0("{", paste0(vapply(labels, quoted, ""), ":", items, collapse = ","), "}"))
    if (scalar && !is.list(value) && length(value) == 1) return(items[[1]])
    paste0("[", paste0(items, collapse = ","), "]")
  }
  # Dates in ISO 8601, factors by their names, of a data frame every column.
  as_plain <- function(value) {
    if (is.data.frame(value)) return(lapply(value, function(column) as_plain(column)))
    if (is.factor(value)) return(as.character(value))
    if (inherits(value, "Date")) return(format(value))
    if (inherits(value, "POSIXt")) return(format(value, "%Y-%m-%dT%H:%M:%S"))
    value
  }
  escaped <- function(text) {
    for (pair in list(c("&", "&amp;"), c("<", "&lt;"), c(">", "&gt;"))) text <- gsub(pair[1], pair[2], text, fixed = TRUE)
    text
  }
  html_of_frame <- function(frame) {
    shown <- utils::head(frame, 60)
    row <- function(cells, tag) paste0("<tr>", paste0("<", tag, ">", cells, "</", tag, ">", collapse = ""), "</tr>")
    cells <- as.matrix(format(shown))
    body <- vapply(seq_len(nrow(shown)), function(i) row(escaped(c(rownames(shown)[i], cells[i, ])), "td"), "")
    paste0("<table>\n", row(escaped(c("", colnames(shown))), "th"), "\n", paste0(body, collapse = "\n"), "\n</table>")
  }
  data_of <- function(value) {
    data <- list("text/plain" = quoted(paste(utils::capture.output(print_value(value)), collapse = "\n")))
    if (is.data.frame(value)) {
      data[["text/html"]] <- quoted(html_of_frame(value))
      columns <- lapply(as_plain(value), json, scalar = FALSE)
      if (!any(vapply(columns, is.null, NA)) && length(columns) > 0) {
        pairs <- paste0(vapply(names(columns), quoted, ""), ":", unlist(columns), collapse = ",")
        data[["e2b/data"]] <- paste0("{", pairs, "}")
      }
    } else if (is.list(value) && !is.object(value)) {
      data[["application/json"]] <- json(value)
    }
    data
  }
  print_value <- function(value) if (isS4(value)) methods::show(value) else print(value)

  # -- plots --------------------------------------------------------------------------------------------------------

  # Devices that are opened when something is drawn, a page a picture: device -> start of the names of its files.
  plots <- list()
  options(device = function(...) {
    pages <- tempfile("plot")
    grDevices::png(paste0(pages, "-%05d.png"), width = 840, height = 840, res = 120, type = "cairo")
    plots[[as.character(grDevices::dev.cur())]] <<- pages
  })
  tell_plots <- function() {
    for (device in names(plots)) {
      # The user's code may have closed it.
      if (as.integer(device) %in% grDevices::dev.list()) grDevices::dev.off(as.integer(device))
      for (path in sort(Sys.glob(paste0(plots[[device]], "-*.png")))) {
        bytes <- readBin(path, "raw", file.size(path))
        unlink(path)
        tell_result(FALSE, list("image/png" = paste0("\"", base64(bytes), "\"")))
      }
    }
    plots <<- list()
  }
  alphabet <- c(LETTERS, letters, 0:9, "+", "/")
  base64 <- function(bytes) {
    padding <- (3 - length(bytes) %% 3) %% 3
    n <- matrix(as.integer(c(bytes, raw(padding))), nrow = 3)
    index <- rbind(
      n[1, ] %/% 4L, n[1, ] %% 4L * 16L + n[2, ] %/% 16L, n[2, ] %% 16L * 4L + n[3, ] %/% 64L, n[3, ] %% 64L
    )
    text <- alphabet[index + 1L]
    if (padding > 0) text[length(text) - seq_len(padding) + 1] <- "="
    paste0(text, collapse = "")
  }

  # -- runs ---------------------------------------------------------------------------------------------------------

  run <- function(code) {
    calls <- NULL
    fail <- function(name, value, call = NULL) {
      tell_plots()
      where <- if (is.null(call)) "Error: " else paste0("Error in ", line_of(call), ": ")
      lines <- if (length(calls) > 0) paste0("  ", vapply(calls, line_of, ""))
      tell_error(name, value, paste(c(paste0(where, value), lines), collapse = "\n"))
    }
    tryCatch(
      withCallingHandlers(
        {
          cell <- parse(text = code, keep.source = TRUE, encoding = "UTF-8")
          for (i in seq_along(cell)) {
            allowInterrupts({
              outcome <- withVisible(coppice_eval(cell[[i]]))
              if (outcome$visible) show_value(outcome$value, i == length(cell))
            })
          }
          tell_plots()
        },
        error = function(condition) calls <<- calls_of_code(sys.calls()),
        warning = function(condition) {
          message("Warning message:\n", conditionMessage(condition))
          tryInvokeRestart("muffleWarning")
        }
      ),
      error = function(condition) {
        name <- class(condition)[1]
        call <- if (length(calls) > 0) conditionCall(condition)
        fail(if (name == "simpleError") "Error" else name, conditionMessage(condition), call)
      },
      interrupt = function(condition) fail("Interrupted", "The execution was interrupted")
    )
  }
  coppice_eval <- function(expression) eval(expression, globalenv())
  # Without the calls above the code (this program's) and below it (those that handle the error).
  calls_of_code <- function(calls) {
    above <- which(vapply(calls, function(call) identical(call[[1]], quote(coppice_eval)), NA))
    if (length(above) == 0) return(NULL)
    utils::head(calls[-seq_len(max(above) + 2)], -2)
  }
  line_of <- function(call) paste(deparse(call, nlines = 1), collapse = " ")
  # A value that draws (ggplot) does so when it is printed, and is nothing else.
  show_value <- function(value, last) {
    data <- data_of(value)
    if (last) tell_plots()
    if (data[["text/plain"]] != "\"\"") tell_result(last, data)
  }

  # -- requests -----------------------------------------------------------------------------------------------------

  payload <- function() {
    connection <- file("/proc/self/fd/5", "rb")
    on.exit(close(connection))
    bytes <- raw()
    while (length(piece <- readBin(connection, "raw", 1048576L)) > 0) bytes <- c(bytes, piece)
    ends <- which(bytes == as.raw(0))
    starts <- c(1L, ends[-length(ends)] + 1L)
    strings <- mapply(function(from, to) if (to > from) rawToChar(bytes[from:(to - 1L)]) else "", starts, ends)
    Encoding(strings) <- "UTF-8"
    strings
  }
  # NAME=value, or NAME to remove it.
  assign_env <- function(changes) {
    for (change in changes) {
      name <- sub("=.*", "", change)
      if (nzchar(name) && name != change) {
        do.call(Sys.setenv, stats::setNames(list(substring(change, nchar(name) + 2)), name))
      } else {
        Sys.unsetenv(name)
      }
    }
  }
  run_with <- function(strings) {
    count <- as.integer(strings[1])
    variables <- strings[1 + seq_len(count)]
    names <- sub("=.*", "", variables)
    before <- Sys.getenv(names, NA)
    assign_env(variables)
    on.exit(assign_env(ifelse(is.na(before), names, paste0(names, "=", before))[seq_along(names)]))
    run(strings[length(strings)])
  }

  # Seeds that user code gives are remembered: they go on alike in every fork of the sandbox.
  given <- FALSE
  attach(list(set.seed = function(seed, ...) {
    given <<- !is.null(seed)
    base::set.seed(seed, ...)
  }), name = "coppice", warn.conflicts = FALSE)
  reseed <- function(strings) {
    if (strings[1] == "keep" && given) return()
    base::set.seed(strtoi(substr(strings[2], 1, 7), 16L))
    # The seed has 32 bits; the rest of the entropy moves the state.
    for (piece in strtoi(substring(strings[2], seq(8, 120, 7), seq(14, 126, 7)), 16L)) {
      state <- get(".Random.seed", globalenv())
      at <- 2L + piece %% (length(state) - 2L) + 1L
      state[at] <- bitwXor(state[at], piece)
      assign(".Random.seed", state, globalenv())
    }
    given <<- FALSE
  }

  requests <- file("/proc/self/fd/3", "r", blocking = TRUE, raw = TRUE)
  options(warn = 1, menu.graphics = FALSE, browser = "false", pager = "cat", width = 120)
  tell("{\"type\":\"ready\"}")
  # Only the code of a run is interrupted.
  suspendInterrupts(repeat {
    request <- readLines(requests, 1)
    if (length(request) == 0) break
    # What came between runs changes nothing.
    tryCatch(allowInterrupts(Sys.sleep(0)), interrupt = function(condition) NULL)
    tryCatch(
      {
        strings <- payload()
        switch(request, run = run_with(strings), env = assign_env(strings), reseed = reseed(strings))
      },
      error = function(condition) tell_error("Error", conditionMessage(condition), "")
    )
    tell("{\"type\":\"done\"}")
  })
  quit("no")
})
