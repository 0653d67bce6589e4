{{/* A Deployment of the service: (dict "root" $ "track" "stable" "model" model "image" image "replicas" "2" or "") */}}
{{- define "llambert.serving" -}}
{{- $root := .root }}{{ $values := .root.Values }}{{ $model := .model -}}
{{- $polls := and (eq $model.source "mlflow") (gt (int64 $model.pollSeconds) 0) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "llambert.metadata" (list $root (eq .track "stable" | ternary "" .track) "serving") | nindent 2 }}
    track: {{ .track }}
spec:
  {{- if ne .replicas "" }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  progressDeadlineSeconds: {{ add (int64 $model.loadSeconds) 600 }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      {{- toYaml $values.strategy | nindent 6 }}
  selector:
    matchLabels:
      {{- include "llambert.selectorLabels" (list $root "serving") | nindent 6 }}
      track: {{ .track }}
  template:
    metadata:
      {{- with $values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      labels:
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- include "llambert.podLabels" (list $root "serving") | nindent 8 }}
        track: {{ .track }}
    spec:
      {{- include "llambert.pod" $root | nindent 6 }}
      terminationGracePeriodSeconds: {{ add (int64 $values.config.preStopSeconds) (int64 $values.config.drainSeconds) 15 }}
      {{- include "llambert.placement" $values | nindent 6 }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      {{- include "llambert.serving.spread" . | nindent 6 }}
      {{- if and (eq $model.source "mlflow") (not $polls) }}
      {{- include "llambert.model.initContainers" (list $root $model .image) | nindent 6 }}
      {{- end }}
      containers:
        - name: serving
          {{- include "llambert.container" (list $root .image) | nindent 10 }}
          args: [python, -m, serving, serve]
          env:
            {{- include "llambert.env" $root | nindent 12 }}
            {{- include "llambert.serving.env" (list $root $model $polls) | nindent 12 }}
          {{- if or $polls $model.shadow }}
          {{- with include "llambert.model.mlflowEnvFrom" $model }}
          envFrom:
            {{- . | nindent 12 }}
          {{- end }}
          {{- end }}
          ports:
            - {name: http, containerPort: 3000}
          {{- include "llambert.serving.probes" (list $values $model) | nindent 10 }}
          resources:
            {{- include "llambert.resources" $values | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- include "llambert.model.mount" (list $model (not $polls)) | nindent 12 }}
            {{- if $values.auth.existingSecret }}
            - {name: token, mountPath: /var/run/llambert, readOnly: true}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: {{ $values.tmpSize | quote }}}
        {{- include "llambert.model.volume" $model | nindent 8 }}
        {{- with $values.auth }}
        {{- if .existingSecret }}
        - name: token
          secret:
            secretName: {{ .existingSecret | quote }}
            items: [{key: {{ .key | quote }}, path: token}]
        {{- end }}
        {{- end }}
{{- end -}}

{{/* (list $ model polls) */}}
{{- define "llambert.serving.env" -}}
{{- $root := index . 0 }}{{ $model := index . 1 }}{{ $polls := index . 2 }}{{ $config := $root.Values.config -}}
- {name: BENTOML_HOME, value: /tmp/bentoml}
- {name: LLAMBERT_MODEL, value: {{ $polls | ternary (include "llambert.model.uri" $model) (include "llambert.model.path" $model) | quote }}}
- {name: LLAMBERT_POLL_S, value: "{{ $polls | ternary (int64 $model.pollSeconds) 0 }}"}
{{- if $polls }}
- {name: LLAMBERT_CACHE, value: /model}
{{- end }}
{{- with $model.shadow }}
- {name: LLAMBERT_SHADOW_MODEL, value: {{ . | quote }}}
{{- end }}
{{- if or $polls $model.shadow }}
{{ include "llambert.model.mlflowEnv" (list $root $model) }}
{{- end }}
- {name: LLAMBERT_PRECISION, value: {{ $config.precision }}}
- {name: LLAMBERT_RUNTIME, value: {{ $config.runtime }}}
{{- if $config.threads }}
- {name: LLAMBERT_THREADS, value: "{{ int64 $config.threads }}"}
{{- else if ($root.Values.resources.requests | default dict).cpu }}
- name: LLAMBERT_THREADS
  valueFrom:
    resourceFieldRef: {resource: requests.cpu}  # rounded up; without it a pod would keep all of a large node busy
{{- end }}
- {name: LLAMBERT_MAX_BATCH_TOKENS, value: "{{ int64 $config.maxBatchTokens }}"}
- {name: LLAMBERT_MAX_QUEUED_TOKENS, value: "{{ int64 $config.maxQueuedTokens }}"}
- {name: LLAMBERT_MAX_TEXTS, value: "{{ int64 $config.maxTexts }}"}
- {name: LLAMBERT_MAX_CHARS, value: "{{ int64 $config.maxChars }}"}
- {name: LLAMBERT_MAX_BODY_BYTES, value: "{{ int64 $config.maxBodyBytes }}"}
- {name: LLAMBERT_DRAIN_S, value: "{{ int64 $config.drainSeconds }}"}
- {name: LLAMBERT_DRIFT_WINDOW, value: "{{ int64 $config.driftWindow }}"}
{{- if $root.Values.auth.existingSecret }}
- {name: LLAMBERT_TOKEN_FILE, value: /var/run/llambert/token}
{{- end }}
{{- with $root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (list values model). `sleep` as a command: as an action of its own it needs Kubernetes 1.30. */}}
{{- define "llambert.serving.probes" -}}
{{- $probes := (first .).probes -}}
lifecycle:
  preStop:
    exec: {command: [sleep, "{{ int64 (first .).config.preStopSeconds }}"]}
startupProbe:
  {{- include "llambert.startup" (list (last .) $probes.startupPeriodSeconds $probes.timeoutSeconds "/readyz") | nindent 2 }}
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: {{ int64 $probes.periodSeconds }}
  timeoutSeconds: {{ int64 $probes.timeoutSeconds }}
  failureThreshold: {{ int64 $probes.livenessFailures }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: {{ int64 $probes.periodSeconds }}
  timeoutSeconds: {{ int64 $probes.timeoutSeconds }}
  failureThreshold: {{ int64 $probes.readinessFailures }}
{{- end -}}

{{/* Pods of one rollout apart from each other. */}}
{{- define "llambert.serving.spread" -}}
{{- $root := .root }}{{ $track := .track -}}
{{- with .root.Values.topologySpread }}
{{- if .keys }}
topologySpreadConstraints:
  {{- range $key := .keys }}
  - topologyKey: {{ $key | quote }}
    maxSkew: {{ int64 $.root.Values.topologySpread.maxSkew }}
    whenUnsatisfiable: {{ $.root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "llambert.selectorLabels" (list $root "serving") | nindent 8 }}
        track: {{ $track }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}
