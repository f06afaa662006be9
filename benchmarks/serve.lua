-- The requests of wrk, whose bodies are the files of a folder in turn; its summary is one line of JSON.
-- wrk -s serve.lua URL -- FOLDER COUNT

local bodies, at = {}, 0

function init(args)
  for number = 0, tonumber(args[2]) - 1 do
    local file = assert(io.open(args[1] .. "/" .. number, "rb"))
    bodies[#bodies + 1] = wrk.format("POST", nil, { ["Content-Type"] = "multipart/form-data; boundary=fewshot" }, file:read("*a"))
    file:close()
  end
end

function request()
  at = at % #bodies + 1
  return bodies[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "failed": %d, "p50": %f, "p95": %f, "p99": %f, "longest": %f}\n',
    summary.requests, summary.duration / 1e6, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
