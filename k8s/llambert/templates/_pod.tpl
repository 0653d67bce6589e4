{{/* What every pod begins with: the `restricted` Pod Security Standard, no token of the API. */}}
{{- define "llambert.pod" -}}
serviceAccountName: {{ include "llambert.serviceAccount" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Image and rights of every container: (list $ image). Commands are given as `args`, so that the image's tini stays process
     1 and passes SIGTERM on. */}}
{{- define "llambert.container" -}}
image: {{ include "llambert.image" . | quote }}
imagePullPolicy: {{ (last .).pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Variables of every container. The user has no entry in /etc/passwd of some images: libraries ask USER instead. */}}
{{- define "llambert.env" -}}
- {name: HOME, value: /tmp}
- {name: USER, value: llambert}
- {name: DO_NOT_TRACK, value: "1"}
- {name: BENTOML_DO_NOT_TRACK, value: "True"}
- {name: MLFLOW_DISABLE_TELEMETRY, value: "true"}
{{- end -}}

{{/* Where pods go: any block with nodeSelector and tolerations */}}
{{- define "llambert.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Any block with resources and gpu. Requests of GPUs equal limits: Kubernetes refuses anything else. */}}
{{- define "llambert.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .gpu.enabled -}}
{{- $gpu := dict .gpu.resourceName (int64 .gpu.count) -}}
{{- $resources = mergeOverwrite $resources (dict "requests" $gpu "limits" (deepCopy $gpu)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* A variable from a Secret: (list "NAME" block), where the block has existingSecret and key */}}
{{- define "llambert.secretEnv" -}}
{{- if (last .).existingSecret }}
- name: {{ first . | quote }}
  valueFrom:
    secretKeyRef: {name: {{ (last .).existingSecret | quote }}, key: {{ (last .).key | quote }}}
{{- end }}
{{- end -}}

{{/* A startup probe that gives a block's loadSeconds: (list block periodSeconds timeoutSeconds path) */}}
{{- define "llambert.startup" -}}
{{- $period := index . 1 | int64 -}}
httpGet: {path: {{ index . 3 }}, port: http}
periodSeconds: {{ $period }}
timeoutSeconds: {{ index . 2 | int64 }}
failureThreshold: {{ divf (index . 0).loadSeconds $period | ceil | int64 }}
{{- end -}}
